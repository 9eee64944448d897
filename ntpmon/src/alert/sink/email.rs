//! Mail, by SMTP. Each try of a message has the same Message-ID, so that a mailbox shows it once.

use std::{collections::VecDeque, fs};

use lettre::{
    Address, Message, SmtpTransport, Transport,
    address::Envelope,
    message::{
        Mailbox,
        header::{ContentType, HeaderName, HeaderValue},
    },
    transport::smtp::{
        self,
        authentication::Credentials,
        client::{Certificate, CertificateStore, Tls, TlsParameters},
    },
};

use parking_lot::Mutex;

use super::{
    REFUSALS,
    definition::{Definition, MailTls},
    secret::Secret,
};
use crate::{alert::notice::Notice, outbox::Failure};

pub(super) fn deliver(sink: &Definition, notice: &Notice, id: &str) -> Result<(), Failure> {
    let message = message(sink, notice, id).map_err(Failure::for_good)?;
    let host = sink.host.as_deref().unwrap_or_default();
    let port = sink.port.unwrap_or(match sink.tls {
        MailTls::Tls => 465,
        MailTls::Starttls => 587,
        MailTls::None => 25,
    });
    let tls = match sink.tls {
        MailTls::None => Tls::None,
        MailTls::Starttls => Tls::Required(parameters(sink, host)?),
        MailTls::Tls => Tls::Wrapper(parameters(sink, host)?),
    };
    let mut transport = SmtpTransport::builder_dangerous(host)
        .port(port)
        .tls(tls)
        .timeout(Some(sink.timeout));
    if let Some(user) = &sink.user {
        let password = Secret::get(sink.password.as_ref(), sink.password_file.as_deref());
        let password = password.map_err(Failure::for_now)?;
        let password = password.map_or_else(String::new, |it| it.reveal().to_owned());
        transport = transport.credentials(Credentials::new(user.clone(), password));
    }
    let transport = transport.build();
    let by = format!("{host}:{port}");
    let all = message.envelope();
    // A test has one id for all sinks.
    let mail = format!("{id} {} {by}", sink.name);
    let left: Vec<&Address> = all.to().iter().filter(|to| !TOLD.has(&mail, to)).collect();
    if left.len() == all.to().len() {
        let Err(error) = transport.send(&message) else {
            return Ok(());
        };
        let failure = failure(&by, &error);
        if left.len() < 2 || !is_of_a_recipient(&error) {
            return Err(failure);
        }
    }
    // One who cannot be told, or not now, keeps no other from it.
    let mut failures = Vec::new();
    for to in &left {
        let one = Envelope::new(all.from().cloned(), vec![Address::clone(to)]);
        let one = one.map_err(Failure::for_good)?;
        match transport.send_raw(&one, &message.formatted()) {
            Ok(_) => TOLD.add(&mail, to),
            Err(error) => {
                let failure = failure(&by, &error);
                tracing::warn!("sink {}: {to} is not told: {}", sink.name, failure.why);
                failures.push(failure);
                if !is_of_a_recipient(&error) {
                    break;
                }
            }
        }
    }
    // Those who have it are not sent it again, and do not wait for the next mail until all have.
    if let Some(later) = failures.iter().position(|it| !it.is_final) {
        let is_told = all.to().iter().any(|to| TOLD.has(&mail, to));
        return Err(Failure {
            most: is_told.then_some(REFUSALS),
            ..failures.swap_remove(later)
        });
    }
    match failures.pop() {
        Some(failure) if failures.len() + 1 == all.to().len() => Err(failure),
        _ => Ok(()),
    }
}

/// Who has a message of which others have to be sent another copy.
static TOLD: Told = Told(Mutex::new(VecDeque::new()));

/// The last ones. After a restart somebody may be told twice, under one Message-ID.
struct Told(Mutex<VecDeque<(String, Address)>>);

impl Told {
    const MOST: usize = 1000;

    fn has(&self, mail: &str, to: &Address) -> bool {
        let known = self.0.lock();
        known.iter().any(|(of, who)| of == mail && who == to)
    }

    fn add(&self, mail: &str, to: &Address) {
        let mut known = self.0.lock();
        if known.len() >= Self::MOST {
            known.pop_front();
        }
        known.push_back((mail.to_owned(), to.clone()));
    }
}

/// Whether the server said no to a command, and not to whoever asks: of many recipients one may be
/// the reason.
fn is_of_a_recipient(error: &smtp::Error) -> bool {
    let code = error.status().map(u16::from);
    code.is_some_and(|it| !is_of_the_user(it) && it != 421)
}

const fn is_of_the_user(code: u16) -> bool {
    matches!(code, 530..540)
}

/// Whether it is worth another try: what the server refuses for good is not, unless it is about the
/// user, whose password may be put right.
fn failure(by: &str, error: &smtp::Error) -> Failure {
    let reason = std::error::Error::source(error);
    let reason = reason.map_or_else(String::new, |it| format!(": {it}"));
    let code = error.status().map(u16::from);
    Failure {
        is_final: error.is_permanent() && !code.is_some_and(is_of_the_user),
        ..Failure::for_now(format!("mailing by {by}: {error}{reason}"))
    }
}

fn message(sink: &Definition, notice: &Notice, id: &str) -> Result<Message, String> {
    let mailbox = |text: &str| {
        let parsed = text.parse::<Mailbox>();
        parsed.map_err(|error| format!("{text}: {error}"))
    };
    let from = mailbox(sink.from.as_deref().unwrap_or_default())?;
    let domain = from.email.domain().to_owned();
    let mut message = Message::builder()
        .from(from)
        .subject(notice.title(sink.language))
        .message_id(Some(format!("<{id}.ntpmon@{domain}>")))
        .header(ContentType::TEXT_PLAIN)
        // Nobody's holiday message is to answer it.
        .raw_header(HeaderValue::new(
            HeaderName::new_from_ascii_str("Auto-Submitted"),
            "auto-generated".to_owned(),
        ));
    for to in &sink.to {
        message = message.to(mailbox(to)?);
    }
    let body = notice.text(sink.language);
    message.body(body).map_err(|error| error.to_string())
}

fn parameters(sink: &Definition, host: &str) -> Result<TlsParameters, Failure> {
    let mut parameters = TlsParameters::builder(host.to_owned());
    if let Some(file) = &sink.ca_file {
        let failed = |error: &dyn std::fmt::Display| {
            Failure::for_now(format!(
                "reading the certificates {}: {error}",
                file.display()
            ))
        };
        let pem = fs::read(file).map_err(|error| failed(&error))?;
        let certificate = Certificate::from_pem(&pem).map_err(|error| failed(&error))?;
        parameters = parameters
            .certificate_store(CertificateStore::None)
            .add_root_certificate(certificate);
    }
    let built = parameters.build();
    built.map_err(|error| Failure::for_now(format!("TLS with {host}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::{super::definition::Kind, *};
    use crate::alert::{
        notice::{Language, tests::notice},
        state::Telling,
    };

    #[test]
    fn a_mail_says_what_it_is_about_in_its_subject_and_has_one_id_for_all_tries() {
        let mut sink = Definition::new("a", Kind::Email);
        sink.from = Some("ntpmon <ntpmon@ntp.example>".to_owned());
        sink.to = vec!["ops@ntp.example".to_owned(), "B <b@ntp.example>".to_owned()];
        sink.language = Language::En;
        let text = |id| {
            let message = message(&sink, &notice(Telling::Fired), id).unwrap();
            String::from_utf8(message.formatted()).unwrap()
        };
        let mail = text("abc");
        assert!(mail.contains("Subject: [critical] check-offset: offset of the server"));
        assert!(
            mail.contains("Message-ID: <abc.ntpmon@ntp.example>"),
            "{mail}"
        );
        assert!(mail.contains("Auto-Submitted: auto-generated"));
        assert!(
            mail.contains("To: ops@ntp.example, B <b@ntp.example>"),
            "{mail}"
        );
        assert!(mail.contains("server: 192.0.2.1"));
        sink.from = Some("nobody".to_owned());
        assert!(message(&sink, &notice(Telling::Fired), "abc").is_err());
    }
}
