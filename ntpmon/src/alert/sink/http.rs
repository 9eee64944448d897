//! Posting to HTTP servers: one request, with a bound on its time and on what is read of the answer,
//! which is judged by its status and, where the service says how it went in there, by its body.

use std::{fs, io::Read, sync::Arc};

use serde_json::Value;
use ureq::{
    Agent, Proxy,
    tls::{Certificate, PemItem, RootCerts, TlsConfig},
};

use super::{
    REFUSALS,
    definition::{Definition, Kind},
    secret::{HIDDEN, Secret, Url},
};
use crate::outbox::Failure;

/// So much of an answer is read.
const ANSWER: u64 = 16_384;
/// So much of it is told.
const TOLD: usize = 200;
/// What robots say to too many messages; the same one is welcome later. Of DingTalk, WeCom and Feishu.
const TOO_MANY: [i64; 7] = [130_101, 410_100, 45_009, 45_033, 9499, 11_232, 99_991_400];
/// What is shorter is a word, such as "send", and no secret.
const SECRET: usize = 5;

/// Where a sink is.
pub(super) fn url(sink: &Definition) -> Result<Url, Failure> {
    if let Some(url) = &sink.url {
        return Ok(url.clone());
    }
    let text = Secret::get(None, sink.url_file.as_deref()).map_err(Failure::for_now)?;
    let url = Url::from(text.as_ref().map_or("", Secret::reveal));
    if url.is_right() {
        Ok(url)
    } else {
        let file = sink.url_file.as_deref().unwrap_or("url".as_ref());
        Err(Failure::for_now(format!("{} holds no URL", file.display())))
    }
}

/// Posts a body, and gives what could be read of the answer's. The status alone says whether it was
/// taken: an answer that is too long, or breaks off, is no reason to send the same message again.
pub(super) fn post(
    sink: &Definition,
    url: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<String, Failure> {
    let shown = || Url::from(url).shown();
    let mut tls = TlsConfig::builder();
    if let Some(file) = &sink.ca_file {
        let certificates = certificates(file).map_err(Failure::for_now)?;
        tls = tls.root_certs(RootCerts::Specific(Arc::new(certificates)));
    }
    let proxy = match &sink.proxy {
        Some(proxy) => Some(Proxy::new(proxy.reveal()).map_err(Failure::for_now)?),
        None => None,
    };
    let agent: Agent = Agent::config_builder()
        .user_agent(concat!("ntpmon/", env!("CARGO_PKG_VERSION")))
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(proxy)
        .timeout_global(Some(sink.timeout))
        .tls_config(tls.build())
        .build()
        .new_agent();
    let mut request = agent.post(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut response = request
        .send(body)
        .map_err(|error| Failure::for_now(format!("posting to {}: {error}", shown())))?;
    let status = response.status();
    let is_judged = !matches!(sink.kind, Kind::Webhook | Kind::Alertmanager);
    if status.is_success() && !is_judged {
        // What else it says is not waited for.
        return Ok(String::new());
    }
    let said = read(response.body_mut().as_reader());
    if status.is_success() {
        return Ok(said);
    }
    let said = without_secrets(&said, url, headers);
    Err(Failure {
        why: format!("{} answered {status}{}", shown(), told(&said)),
        // These are about the message, which stays the same. All others may be about what stands
        // between, or be put right.
        is_final: matches!(status.as_u16(), 400 | 413 | 414 | 415 | 422),
        most: None,
    })
}

/// What there is of an answer, up to the bound and to where it breaks off.
fn read(answer: impl Read) -> String {
    let mut bytes = Vec::new();
    // What was read before it broke off stays.
    let _ = answer.take(ANSWER).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What a server said, without what it was told in secret: some repeat the path that they do not
/// know, or the header that is wrong.
pub(super) fn without_secrets(said: &str, url: &str, headers: &[(&str, &str)]) -> String {
    let after = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (authority, path) = match after.find(['/', '?', '#']) {
        Some(at) => after.split_at(at),
        None => (after, ""),
    };
    let user = authority.rsplit_once('@').map_or("", |(user, _)| user);
    // The whole before its parts; and as a server shows it that has decoded it.
    // Of a parameter the value; its name is the same for everybody.
    let (steps, parameters) = path.split_once('?').unwrap_or((path, ""));
    let parameters = parameters.split(['&', '#']);
    let parameters = parameters.map(|it| it.split_once('=').map_or(it, |(_, value)| value));
    let parts = steps
        .split(['/', '#'])
        .chain(parameters)
        .chain(user.split(':'));
    let values = headers.iter().filter(|(name, _)| !is_public(name));
    let values = values.flat_map(|(_, value)| std::iter::once(*value).chain(value.split(' ')));
    let mut secrets: Vec<String> = [path.to_owned(), user.to_owned()]
        .into_iter()
        .chain(parts.map(str::to_owned))
        .chain(values.map(str::to_owned))
        .flat_map(|it| [decoded(&it), it.replace('&', "&amp;"), it])
        .filter(|it| it.len() >= SECRET)
        .collect();
    secrets.sort_unstable_by_key(|it| std::cmp::Reverse(it.len()));
    secrets
        .iter()
        .fold(said.to_owned(), |said, secret| said.replace(secret, HIDDEN))
}

/// Headers that every message has, and that give nothing away.
fn is_public(name: &str) -> bool {
    let public = ["content-type", super::ID_HEADER];
    public.iter().any(|it| it.eq_ignore_ascii_case(name))
}

/// Without the percent signs of a URL.
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut plain, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(byte) = bytes.get(at) {
        let digits = bytes.get(at + 1..at + 3);
        let digits = digits.and_then(|it| std::str::from_utf8(it).ok());
        let code = digits.and_then(|it| u8::from_str_radix(it, 16).ok());
        match code.filter(|_| *byte == b'%') {
            Some(code) => {
                plain.push(code);
                at += 3;
            }
            None => {
                plain.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

/// Judges an answer by a code in it, of whichever of these names: robots answer 200 to everything.
pub(super) fn judge(answer: &str, codes: &[&str], texts: &[&str]) -> Result<(), Failure> {
    let Ok(Value::Object(answered)) = serde_json::from_str::<Value>(answer) else {
        return Err(Failure::for_now(format!(
            "the answer is not that of a robot{}",
            told(answer)
        )));
    };
    let Some(code) = codes.iter().find_map(|name| answered.get(*name)) else {
        return Err(Failure::for_now(format!(
            "the answer has no {}{}",
            codes.join(" or "),
            told(answer)
        )));
    };
    if code.as_i64() == Some(0) {
        return Ok(());
    }
    let text = texts.iter().find_map(|name| answered.get(*name)?.as_str());
    let failure = refused(&format!("with {code}{}", told(text.unwrap_or_default())));
    let is_for_now = code.as_i64().is_some_and(|it| TOO_MANY.contains(&it));
    Err(Failure {
        most: failure.most.filter(|_| !is_for_now),
        ..failure
    })
}

/// A robot does not want a message. That may be put right, as where a secret is wrong; but one that
/// is refused for what it says must not keep those after it waiting for a day.
pub(super) fn refused(why: &str) -> Failure {
    Failure {
        most: Some(REFUSALS),
        ..Failure::for_now(format!("refused {why}"))
    }
}

/// The beginning of what a server said, to follow what happened.
fn told(text: &str) -> String {
    let text: String = text
        .chars()
        .filter(|it| !it.is_control())
        .take(TOLD)
        .collect();
    match text.trim() {
        "" => String::new(),
        text => format!(": {text}"),
    }
}

fn certificates(path: &std::path::Path) -> Result<Vec<Certificate<'static>>, String> {
    let failed = |error: &dyn std::fmt::Display| {
        format!("reading the certificates {}: {error}", path.display())
    };
    let pem = fs::read(path).map_err(|error| failed(&error))?;
    let mut found = Vec::new();
    for item in ureq::tls::parse_pem(&pem) {
        if let PemItem::Certificate(certificate) = item.map_err(|error| failed(&error))? {
            found.push(certificate);
        }
    }
    if found.is_empty() {
        return Err(failed(&"there is none; it has to be PEM"));
    }
    Ok(found)
}
