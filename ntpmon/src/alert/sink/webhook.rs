//! A server that is posted JSON: all that is known of an alert, or what a template makes of it,
//! signed so that the server can tell who sent it.

use std::fmt::Write;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::{definition::Definition, http, secret::Secret, template};
use crate::{alert::notice::Notice, outbox::Failure};

/// The same for each try of one delivery.
pub const ID_HEADER: &str = "ntpmon-delivery-id";
/// The body's HMAC with SHA-256, as GitHub writes it.
pub const SIGNATURE_HEADER: &str = "x-ntpmon-signature";

pub(super) fn deliver(sink: &Definition, notice: &Notice, id: &str) -> Result<(), Failure> {
    let data = notice.data(sink.language, id);
    let body = match &sink.template {
        None => data.to_string(),
        Some(text) => template::render(text, &data).unwrap_or_else(|why| {
            // Better told in another form than not at all.
            tracing::error!(
                "the template of sink {}: {why}; all is sent instead",
                sink.name
            );
            data.to_string()
        }),
    };
    let url = http::url(sink)?;
    let secret = Secret::get(sink.secret.as_ref(), sink.secret_file.as_deref());
    let secret = secret.map_err(Failure::for_now)?;
    let signature = secret.map(|secret| sign(secret.reveal().as_bytes(), body.as_bytes()));
    let mut headers: Vec<(&str, &str)> = vec![(ID_HEADER, id)];
    let own = sink.headers.iter();
    headers.extend(own.map(|(name, value)| (name.as_str(), value.reveal())));
    let is_typed = |(name, _): &(&str, &str)| name.eq_ignore_ascii_case("content-type");
    if !headers.iter().any(is_typed) {
        headers.push(("content-type", "application/json"));
    }
    if let Some(signature) = &signature {
        headers.push((SIGNATURE_HEADER, signature));
    }
    http::post(sink, url.reveal(), &headers, body.as_bytes()).map(drop)
}

/// What a receiver makes of the body, and compares.
pub(super) fn sign(secret: &[u8], body: &[u8]) -> String {
    let mut text = "sha256=".to_owned();
    for byte in hmac(secret, body) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

pub(super) fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    // A key of any length is one.
    let Ok(mut hmac) = Hmac::<Sha256>::new_from_slice(key) else {
        return Vec::new();
    };
    hmac.update(text);
    hmac.finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_signed_as_github_signs_it() {
        // From GitHub's documentation of webhooks.
        assert_eq!(
            sign(b"It's a Secret to Everybody", b"Hello, World!"),
            "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
        );
    }
}
