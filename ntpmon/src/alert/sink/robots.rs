//! Robots of chats: DingTalk, Feishu, WeCom and Slack. Each has a form of its own, and most answer
//! 200 whatever became of a message, with what became of it inside.

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    definition::{Definition, Kind},
    http,
    secret::Secret,
    webhook::hmac,
};
use crate::{
    alert::{
        notice::{Language, Notice},
        rule::Severity,
        state::Telling,
    },
    outbox::Failure,
};

/// WeCom takes no more bytes, and the others not much more.
const LONGEST: usize = 3500;

pub(super) fn deliver(sink: &Definition, notice: &Notice, now: Timestamp) -> Result<(), Failure> {
    let url = http::url(sink)?;
    let secret = Secret::get(sink.secret.as_ref(), sink.secret_file.as_deref());
    let secret = secret.map_err(Failure::for_now)?;
    let secret = secret.as_ref().map(Secret::reveal);
    let language = sink.language;
    let (url, body) = match sink.kind {
        Kind::Dingtalk => (
            dingtalk_url(url.reveal(), secret, now),
            json!({
                "msgtype": "markdown",
                "markdown": {"title": notice.title(language), "text": markdown(notice, language, "#### ")},
            }),
        ),
        Kind::Feishu => (
            url.reveal().to_owned(),
            feishu(notice, language, secret, now),
        ),
        Kind::Wecom => (
            url.reveal().to_owned(),
            json!({
                "msgtype": "markdown",
                "markdown": {"content": markdown(notice, language, "#### ")},
            }),
        ),
        _ => (
            url.reveal().to_owned(),
            json!({"text": slack(&cut(notice.text(language)))}),
        ),
    };
    let headers = [("content-type", "application/json; charset=utf-8")];
    let answer = http::post(sink, &url, &headers, body.to_string().as_bytes())?;
    judge(sink.kind, &answer).map_err(|failure| {
        // It may be told with the URL in it.
        let shown = http::without_secrets(&answer, &url, &headers);
        let why = judge(sink.kind, &shown).err().map(|shown| shown.why);
        Failure {
            why: why.unwrap_or_else(|| "refused".to_owned()),
            ..failure
        }
    })
}

fn judge(kind: Kind, answer: &str) -> Result<(), Failure> {
    match kind {
        Kind::Dingtalk | Kind::Wecom => http::judge(answer, &["errcode"], &["errmsg"]),
        Kind::Feishu => http::judge(answer, &["code", "StatusCode"], &["msg", "StatusMessage"]),
        _ => judge_slack(answer),
    }
}

/// It answers "ok"; what stands in for it may answer JSON.
fn judge_slack(answer: &str) -> Result<(), Failure> {
    match serde_json::from_str::<Value>(answer) {
        Ok(answered) if answered["ok"] == false => {
            let why = answered["error"].as_str().unwrap_or("no reason");
            Err(http::refused(&format!("because of {why}")))
        }
        Ok(_) => Ok(()),
        Err(_) if answer.trim() == "ok" || answer.trim().is_empty() => Ok(()),
        Err(_) => {
            let said: String = answer.chars().take(200).collect();
            Err(http::refused(&format!("because of {said}")))
        }
    }
}

/// The URL with a time and the signature of that: `{time}\n{secret}` by the secret.
fn dingtalk_url(url: &str, secret: Option<&str>, now: Timestamp) -> String {
    let Some(secret) = secret else {
        return url.to_owned();
    };
    let time = now.as_millisecond();
    let signature = hmac(secret.as_bytes(), format!("{time}\n{secret}").as_bytes());
    let signature = percent(&STANDARD.encode(signature));
    let joint = if url.contains('?') { '&' } else { '?' };
    format!("{url}{joint}timestamp={time}&sign={signature}")
}

/// What a parameter may not hold, written otherwise.
fn percent(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

/// A card. Its signature is of nothing, by `{time}\n{secret}`.
fn feishu(notice: &Notice, language: Language, secret: Option<&str>, now: Timestamp) -> Value {
    let colour = match (notice.event, notice.severity) {
        (Telling::Resolved, _) => "green",
        (Telling::Test, _) => "blue",
        (_, Severity::Warn) => "orange",
        (_, Severity::Critical) => "red",
    };
    let lines = notice.lines(language).into_iter();
    let lines: Vec<_> = lines
        .map(|(name, value)| format!("**{}**: {}", escaped(&name), escaped(&value)))
        .collect();
    let mut body = json!({
        "msg_type": "interactive",
        "card": {
            "header": {
                "title": {"tag": "plain_text", "content": notice.title(language)},
                "template": colour,
            },
            "elements": [{"tag": "markdown", "content": cut(lines.join("\n"))}],
        },
    });
    if let Some(secret) = secret {
        let time = now.as_second();
        let signature = hmac(format!("{time}\n{secret}").as_bytes(), b"");
        body["timestamp"] = time.to_string().into();
        body["sign"] = STANDARD.encode(signature).into();
    }
    body
}

fn markdown(notice: &Notice, language: Language, head: &str) -> String {
    let mut text = format!("{head}{}\n", escaped(&notice.title(language)));
    for (name, value) in notice.lines(language) {
        text.push_str(&format!(
            "\n> **{}**: {}\n",
            escaped(&name),
            escaped(&value)
        ));
    }
    cut(text)
}

/// What others chose, such as the reference of a server, is shown as it is and marks nothing up.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '*' | '`' | '[' | '\\' => {
                escaped.push('\\');
                escaped.push(letter);
            }
            '\n' | '\r' => escaped.push(' '),
            letter => escaped.push(letter),
        }
    }
    escaped
}

/// As Slack wants it.
fn slack(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

fn cut(text: String) -> String {
    if text.len() <= LONGEST {
        return text;
    }
    let end = (0..=LONGEST).rev().find(|end| text.is_char_boundary(*end));
    format!("{}…", &text[..end.unwrap_or(0)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::notice::tests::notice;

    fn now() -> Timestamp {
        Timestamp::from_millisecond(1_700_000_000_123).unwrap()
    }

    #[test]
    fn dingtalk_is_signed_over_the_time_and_the_secret() {
        // As the sample code of DingTalk makes it, in Python:
        // quote_plus(b64encode(hmac.new(b"SECabc", b"1700000000123\nSECabc", sha256).digest()))
        let url = dingtalk_url("https://a/send?access_token=b", Some("SECabc"), now());
        assert_eq!(
            url,
            "https://a/send?access_token=b&timestamp=1700000000123&sign=IqXBU%2FaLfwMA3S%2FtDcfRmHx5vWHw9Y1aOgFLBr1Ti9w%3D"
        );
        assert_eq!(dingtalk_url("https://a", None, now()), "https://a");
    }

    #[test]
    fn feishu_is_signed_by_the_time_and_the_secret() {
        // b64encode(hmac.new(b"1700000000\nabc", b"", sha256).digest())
        let body = feishu(&notice(Telling::Fired), Language::Zh, Some("abc"), now());
        assert_eq!(body["timestamp"], "1700000000");
        assert_eq!(body["sign"], "VIS10b0EBvzzSdFnuk4tznEmK5wHaruvf/WnViv2yR4=");
        assert_eq!(body["card"]["header"]["template"], "red");
        let over = feishu(&notice(Telling::Resolved), Language::Zh, None, now());
        assert_eq!(over["card"]["header"]["template"], "green");
        assert_eq!(over["sign"], Value::Null);
    }

    #[test]
    fn what_others_chose_marks_nothing_up_and_no_message_is_too_long() {
        let mut long = notice(Telling::Fired);
        long.message = Some("<@all> [x](http://evil) é".repeat(1000));
        let text = markdown(&long, Language::En, "");
        assert!(text.len() <= LONGEST + 3);
        assert!(!text.contains("<@") && !text.contains(" [x]"), "{text}");
        assert_eq!(slack("<!channel> & co"), "&lt;!channel&gt; &amp; co");
    }

    #[test]
    fn slack_says_ok_or_why_not() {
        assert_eq!(judge_slack("ok\n"), Ok(()));
        assert_eq!(judge_slack("{\"ok\":true}"), Ok(()));
        assert!(judge_slack("{\"ok\":false,\"error\":\"no_text\"}").is_err());
        assert!(judge_slack("invalid_payload").is_err());
    }
}
