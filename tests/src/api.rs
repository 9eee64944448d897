//! The daemon's API as its users reach it: through curl, from the host that the daemon runs on. An
//! answer is what came, whatever its status is.

use std::net::SocketAddr;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

use crate::{daemon::Daemon, namespace::Namespace};

/// For a daemon that does not answer.
const PATIENCE_SECONDS: &str = "30";

/// Where to ask, and as whom.
#[derive(Debug)]
pub struct Api<'a> {
    namespace: &'a Namespace,
    address: SocketAddr,
    token: Option<String>,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status of HTTP.
    pub status: u16,
    /// The content type, without parameters.
    pub content_type: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into()
    }

    /// The body as JSON.
    pub fn json(&self) -> Result<Value> {
        let parsed = serde_json::from_slice(&self.body);
        parsed.with_context(|| format!("status {}, not JSON: {}", self.status, self.text()))
    }

    /// The body of an answer that says it was successful.
    pub fn success(&self) -> Result<Value> {
        let body = self.json()?;
        ensure!(
            self.status == 200 && body["success"] == true,
            "status {}: {body}",
            self.status
        );
        Ok(body)
    }

    /// The code and the message of a refusal.
    pub fn refusal(&self) -> Result<(String, String)> {
        let body = self.json()?;
        ensure!(body["success"] == false, "no refusal: {body}");
        let text = |name: &str| {
            let text = body[name].as_str().map(str::to_owned);
            text.ok_or_else(|| anyhow!("no {name}: {body}"))
        };
        Ok((text("code")?, text("message")?))
    }
}

impl<'a> Api<'a> {
    /// That of a daemon in a namespace.
    pub fn of(daemon: &Daemon, namespace: &'a Namespace) -> Result<Self> {
        Ok(Self {
            namespace,
            address: daemon.address()?,
            token: None,
        })
    }

    /// The same, with a token.
    #[must_use]
    pub fn with_token(self, token: &str) -> Self {
        Self {
            token: Some(token.to_owned()),
            ..self
        }
    }

    /// What something on it is called.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Asks with curl's own arguments. The path may hold what belongs into a URL only.
    pub fn curl(&self, path: &str, arguments: &[&str]) -> Result<Answer> {
        let mut command = self.namespace.command("curl");
        command
            .args(["--silent", "--show-error", "--globoff", "--noproxy", "*"])
            .args(["--max-time", PATIENCE_SECONDS])
            .args(["--write-out", "\n%{http_code} %{content_type}"])
            .args(arguments);
        if let Some(token) = &self.token {
            command.args(["--header", &format!("Authorization: Bearer {token}")]);
        }
        let output = command.arg(self.url(path)).output();
        let output = output.context("cannot start curl")?;
        read(&output.stdout).with_context(|| {
            format!(
                "curl {path} {arguments:?} ({}): {}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            )
        })
    }

    /// Gets something.
    pub fn get(&self, path: &str) -> Result<Answer> {
        self.curl(path, &[])
    }

    /// Posts without a body.
    pub fn post(&self, path: &str) -> Result<Answer> {
        self.curl(path, &["--request", "POST"])
    }

    /// Posts a body of JSON, right or wrong.
    pub fn post_json(&self, path: &str, body: &str) -> Result<Answer> {
        let header = "Content-Type: application/json";
        self.curl(path, &["--header", header, "--data-binary", body])
    }
}

/// Takes apart what curl printed: the body, and a last line with the status and the content type.
pub fn read(printed: &[u8]) -> Result<Answer> {
    let end = printed.iter().rposition(|byte| *byte == b'\n');
    let (body, last) = printed.split_at(end.context("curl printed no status")?);
    let last = std::str::from_utf8(last)?.trim();
    let (status, content_type) = last.split_once(' ').unwrap_or((last, ""));
    let status = status.parse().context("the status")?;
    ensure!(status != 0, "there was no answer");
    let essence = content_type.split(';').next().unwrap_or_default();
    Ok(Answer {
        status,
        content_type: essence.trim().to_owned(),
        body: body.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_from_what_curl_printed() {
        let answer = read(b"{\"success\":\nfalse}\n404 application/json; charset=utf-8").unwrap();
        assert_eq!(
            (answer.status, &*answer.content_type),
            (404, "application/json")
        );
        assert_eq!(answer.json().unwrap()["success"], false);
        assert!(answer.success().is_err());
        assert_eq!(read(b"\n200 ").unwrap().body, b"");
        assert!(read(b"\n000 ").is_err());
        assert!(read(b"").is_err());
    }
}
