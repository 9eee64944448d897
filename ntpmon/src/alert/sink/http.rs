//! Posting to HTTP servers: one request, with a bound on its time and on what is read of the answer,
//! which is judged by its status and, where the service says how it went in there, by its body.

use std::{fs, sync::Arc};

use serde_json::Value;
use ureq::{
    Agent, Proxy,
    tls::{Certificate, PemItem, RootCerts, TlsConfig},
};

use super::{
    definition::Definition,
    secret::{Secret, Url},
};
use crate::outbox::Failure;

/// So much of an answer is read.
const ANSWER: u64 = 16_384;
/// So much of it is told.
const TOLD: usize = 200;

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

/// Posts a body, and gives the answer's.
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
    let answer = response
        .body_mut()
        .with_config()
        .limit(ANSWER)
        .lossy_utf8(true)
        .read_to_string()
        .map_err(|error| Failure::for_now(format!("reading the answer of {}: {error}", shown())));
    if status.is_success() {
        return answer;
    }
    let said = answer.unwrap_or_default();
    Err(Failure {
        why: format!("{} answered {status}{}", shown(), told(&said)),
        // These are about the message, which stays the same. All others may be about what stands
        // between, or be put right.
        is_final: matches!(status.as_u16(), 400 | 413 | 414 | 415 | 422),
    })
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
    Err(Failure::for_now(format!(
        "refused with {code}{}",
        told(text.unwrap_or_default())
    )))
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
