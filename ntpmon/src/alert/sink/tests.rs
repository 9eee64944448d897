//! Every sink against a server that is really there: one that takes messages, and ones that fail,
//! refuse, hang and answer slowly.

mod tls;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use parking_lot::Mutex;
use serde_json::Value;

use self::tls::{Begin, BehindTls};
use super::{
    secret::{Secret, Url},
    *,
};
use crate::alert::{
    notice::{Language, tests::notice},
    state::Telling,
};

/// A request as it came.
#[derive(Clone, Debug)]
struct Request {
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers.find_map(|(it, value)| (it == name).then_some(value.as_str()))
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// What a server does with a request.
#[derive(Clone, Copy)]
enum Way {
    Answer(u16, &'static str),
    /// Nothing, for as long as the test may take.
    Hang,
    /// It closes the connection.
    Close,
    /// One byte every so often.
    Slow,
    /// This status, and the path and a header that it was told.
    Echo(u16),
    /// Success, with more than anybody wants to read.
    Long,
    /// Success, with an answer that breaks off.
    Broken(&'static str),
    /// Success, with an answer that never ends.
    Stall(&'static str),
}

struct Server {
    url: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    fn new(way: Way) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::<Mutex<Vec<Request>>>::default();
        let seen = Arc::clone(&requests);
        // It ends with the process.
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let seen = Arc::clone(&seen);
                thread::spawn(move || serve(stream, way, &seen));
            }
        });
        Self { url, requests }
    }

    fn only(&self) -> Request {
        let requests = self.requests.lock();
        assert_eq!(requests.len(), 1, "{requests:?}");
        requests[0].clone()
    }
}

fn serve(stream: TcpStream, way: Way, seen: &Mutex<Vec<Request>>) {
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    if reader.read_line(&mut line).unwrap_or(0) == 0 {
        return;
    }
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let Some((name, value)) = line.trim().split_once(':') else {
            break;
        };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let mut body = vec![0; length.map_or(0, |(_, length)| length.parse().unwrap())];
    reader.read_exact(&mut body).unwrap();
    let request = Request {
        path,
        headers,
        body,
    };
    seen.lock().push(request.clone());
    let mut stream = stream;
    let begin = "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n";
    match way {
        Way::Answer(status, text) => {
            let _ = write!(
                stream,
                "HTTP/1.1 {status} S\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
                text.len()
            );
        }
        Way::Hang => thread::sleep(Duration::from_secs(20)),
        Way::Close => {}
        Way::Echo(status) => {
            let header = request.header("authorization").unwrap_or_default();
            let text = format!("nothing at {} for {header}", request.path);
            let _ = write!(
                stream,
                "HTTP/1.1 {status} S\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
                text.len()
            );
        }
        Way::Long => {
            let _ = write!(stream, "{begin}{}", " ".repeat(1_000_000));
        }
        Way::Broken(text) => {
            let _ = write!(stream, "{begin}{text}");
        }
        Way::Stall(text) => {
            let _ = write!(stream, "{begin}{text}");
            thread::sleep(Duration::from_secs(20));
        }
        Way::Slow => {
            for _ in 0..200 {
                if stream.write_all(b"H").is_err() {
                    return;
                }
                thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

fn sink(kind: Kind, url: &str) -> Definition {
    Definition {
        url: Some(Url::from(url)),
        timeout: Duration::from_millis(700),
        ..Definition::new("ops", kind)
    }
}

fn send(sink: &Definition, event: Telling) -> Result<(), Failure> {
    let now = "2026-01-01T01:00:00Z".parse().unwrap();
    sink.send(&[notice(event)], "id-1", now)
}

/// Each kind that is reached over HTTP, with an answer that it takes for a success.
const HTTP: [(Kind, &str); 6] = [
    (Kind::Webhook, ""),
    (Kind::Alertmanager, ""),
    (Kind::Dingtalk, "{\"errcode\":0,\"errmsg\":\"ok\"}"),
    (Kind::Feishu, "{\"code\":0,\"msg\":\"success\"}"),
    (Kind::Wecom, "{\"errcode\":0,\"errmsg\":\"ok\"}"),
    (Kind::Slack, "ok"),
];

#[test]
fn each_service_takes_what_is_sent_and_an_error_of_it_is_a_failure() {
    for (kind, answer) in HTTP {
        let server = Server::new(Way::Answer(200, answer));
        assert_eq!(
            send(&sink(kind, &server.url), Telling::Fired),
            Ok(()),
            "{kind:?}"
        );
        server.only().json();
        for status in [301, 400, 401, 404, 429, 500, 503] {
            let server = Server::new(Way::Answer(status, "out of\norder"));
            let failure = send(&sink(kind, &server.url), Telling::Fired).unwrap_err();
            assert!(failure.why.contains(&status.to_string()), "{failure:?}");
            assert!(failure.why.contains("out oforder"), "{failure:?}");
            assert_eq!(failure.is_final, status == 400, "{failure:?}");
        }
    }
}

#[test]
fn a_robot_that_answers_200_with_an_error_in_it_has_not_taken_the_message() {
    let refusals = [
        (
            Kind::Dingtalk,
            "{\"errcode\":310000,\"errmsg\":\"sign not match\"}",
            "sign not match",
        ),
        (
            Kind::Wecom,
            "{\"errcode\":93000,\"errmsg\":\"invalid webhook\"}",
            "invalid webhook",
        ),
        (
            Kind::Feishu,
            "{\"code\":19021,\"msg\":\"sign match fail\"}",
            "sign match fail",
        ),
        (
            Kind::Feishu,
            "{\"StatusCode\":1,\"StatusMessage\":\"no\"}",
            "no",
        ),
        (Kind::Dingtalk, "<html>", "<html>"),
        (Kind::Wecom, "{}", "errcode"),
        (
            Kind::Slack,
            "{\"ok\":false,\"error\":\"invalid_auth\"}",
            "invalid_auth",
        ),
        (Kind::Slack, "no_service", "no_service"),
    ];
    for (kind, answer, why) in refusals {
        let server = Server::new(Way::Answer(200, answer));
        let failure = send(&sink(kind, &server.url), Telling::Fired).unwrap_err();
        assert!(failure.why.contains(why), "{kind:?}: {failure:?}");
        assert!(!failure.is_final);
    }
}

#[test]
fn what_was_taken_is_taken_however_the_answer_ends() {
    for (kind, answer) in HTTP {
        for way in [Way::Broken(answer), Way::Stall(answer)] {
            let server = Server::new(way);
            let sent = send(&sink(kind, &server.url), Telling::Fired);
            assert_eq!(sent, Ok(()), "{kind:?}");
        }
    }
    for kind in [Kind::Webhook, Kind::Alertmanager] {
        let server = Server::new(Way::Long);
        assert_eq!(send(&sink(kind, &server.url), Telling::Fired), Ok(()));
        let server = Server::new(Way::Stall(""));
        let begun = Instant::now();
        assert_eq!(send(&sink(kind, &server.url), Telling::Fired), Ok(()));
        assert!(begun.elapsed() < Duration::from_millis(600), "it waited");
    }
    // Robots say inside what became of it.
    let server = Server::new(Way::Long);
    assert!(send(&sink(Kind::Wecom, &server.url), Telling::Fired).is_err());
}

#[test]
fn what_a_server_repeats_of_a_secret_is_not_told() {
    for status in [200, 403, 404] {
        for (kind, _) in HTTP {
            let server = Server::new(Way::Echo(status));
            let url = format!(
                "{}/services/T0top%2Fsecret?access_token=topsecret",
                server.url
            );
            let mut sink = sink(kind, &url);
            if matches!(kind, Kind::Webhook | Kind::Alertmanager) {
                let header = Secret::from("Bearer topsecret2");
                sink.headers.insert("Authorization".to_owned(), header);
            }
            match send(&sink, Telling::Fired) {
                Ok(()) => assert_eq!(status, 200, "{kind:?}"),
                Err(failure) => {
                    assert!(failure.why.contains("nothing at"), "{failure:?}");
                    for secret in ["topsecret", "T0top", "topsecret2"] {
                        assert!(!failure.why.contains(secret), "{failure:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn what_a_robot_refuses_is_given_up_before_what_it_does_not_answer() {
    let server = Server::new(Way::Answer(200, "{\"errcode\":310000}"));
    let failure = send(&sink(Kind::Dingtalk, &server.url), Telling::Fired).unwrap_err();
    assert_eq!((failure.is_final, failure.most), (false, Some(10)));
    let server = Server::new(Way::Answer(500, ""));
    let failure = send(&sink(Kind::Dingtalk, &server.url), Telling::Fired).unwrap_err();
    assert_eq!((failure.is_final, failure.most), (false, None));
}

#[test]
fn one_that_hangs_or_is_slow_or_closes_fails_within_the_timeout() {
    for way in [Way::Hang, Way::Slow, Way::Close] {
        for (kind, _) in HTTP {
            let server = Server::new(way);
            let begun = Instant::now();
            let failure = send(&sink(kind, &server.url), Telling::Fired).unwrap_err();
            assert!(begun.elapsed() < Duration::from_secs(5), "{kind:?}");
            assert!(
                !failure.is_final && failure.why.contains("127.0.0.1"),
                "{failure:?}"
            );
        }
    }
}

#[test]
fn one_that_is_not_there_fails_at_once_and_says_where() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/topsecret", listener.local_addr().unwrap());
    drop(listener);
    for (kind, _) in HTTP {
        let failure = send(&sink(kind, &url), Telling::Fired).unwrap_err();
        assert!(failure.why.contains("127.0.0.1"), "{failure:?}");
        assert!(!failure.why.contains("topsecret"), "{failure:?}");
    }
    let unknown = sink(Kind::Webhook, "http://ntpmon-test.invalid/");
    assert!(send(&unknown, Telling::Fired).is_err());
}

#[test]
fn a_webhook_is_told_all_that_is_known_signed_and_with_an_id() {
    let server = Server::new(Way::Answer(204, ""));
    let mut sink = sink(Kind::Webhook, &format!("{}/alerts?a=b", server.url));
    sink.secret = Some(Secret::from("key"));
    sink.headers
        .insert("Authorization".to_owned(), Secret::from("Bearer abc"));
    send(&sink, Telling::Fired).unwrap();
    let request = server.only();
    assert_eq!(request.path, "/alerts?a=b");
    assert_eq!(request.header(ID_HEADER), Some("id-1"));
    assert_eq!(request.header("authorization"), Some("Bearer abc"));
    assert_eq!(request.header("content-type"), Some("application/json"));
    let signature = webhook::sign(b"key", &request.body);
    assert_eq!(request.header(SIGNATURE_HEADER), Some(signature.as_str()));
    let body = request.json();
    assert_eq!(
        (&body["state"], &body["alert_id"]),
        (&"firing".into(), &7.into())
    );
    assert_eq!(
        (&body["value"], &body["level"]),
        (&0.0612.into(), &0.05.into())
    );
    assert_eq!(body["labels"]["server"], "192.0.2.1");
    assert_eq!(body["resolved"], Value::Null);

    let server = Server::new(Way::Answer(200, ""));
    sink.url = Some(Url::from(server.url.as_str()));
    send(&sink, Telling::Resolved).unwrap();
    let body = server.only().json();
    assert_eq!(body["state"], "resolved");
    assert_eq!(body["resolved"], "2026-01-01T00:05:00Z");
}

#[test]
fn a_template_makes_the_body_and_one_that_fails_at_night_loses_nothing() {
    let server = Server::new(Way::Answer(200, ""));
    let mut sink = sink(Kind::Webhook, &server.url);
    sink.template = Some("{\"msg\": {{ title | tojson }}}".to_owned());
    sink.language = Language::Zh;
    send(&sink, Telling::Fired).unwrap();
    let title = server.only().json()["msg"].as_str().unwrap().to_owned();
    assert!(title.contains("请检查"), "{title}");

    let server = Server::new(Way::Answer(200, ""));
    sink.url = Some(Url::from(server.url.as_str()));
    // Right for what has a value, and wrong for what has none.
    sink.template = Some("{\"by\": {{ value * 1000 }}}".to_owned());
    assert_eq!(sink.wrong_keys(), [""; 0]);
    let mut missing = notice(Telling::Fired);
    missing.value = None;
    sink.send(&[missing], "id", Timestamp::UNIX_EPOCH).unwrap();
    assert_eq!(server.only().json()["rule"], "check-offset");
}

#[test]
fn a_secret_and_a_url_come_from_files_that_may_change() {
    let folder = tempfile::tempdir().unwrap();
    let (url, secret) = (folder.path().join("url"), folder.path().join("secret"));
    let server = Server::new(Way::Answer(200, "{\"errcode\":0}"));
    let mut sink = Definition::new("ops", Kind::Dingtalk);
    sink.url_file = Some(url.clone());
    sink.secret_file = Some(secret.clone());
    assert!(send(&sink, Telling::Fired).unwrap_err().why.contains("url"));
    std::fs::write(&url, format!("{}/send?access_token=abc\n", server.url)).unwrap();
    assert!(
        send(&sink, Telling::Fired)
            .unwrap_err()
            .why
            .contains("secret")
    );
    std::fs::write(&secret, "SECabc\n").unwrap();
    send(&sink, Telling::Fired).unwrap();
    let request = server.only();
    assert!(
        request
            .path
            .starts_with("/send?access_token=abc&timestamp="),
        "{}",
        request.path
    );
    assert!(request.path.contains("&sign="));
    assert_eq!(request.json()["msgtype"], "markdown");
    std::fs::write(&url, "nowhere").unwrap();
    assert!(
        send(&sink, Telling::Fired)
            .unwrap_err()
            .why
            .contains("holds no URL")
    );
}

#[test]
fn an_alertmanager_is_told_what_became_worse_as_another_alert() {
    let server = Server::new(Way::Answer(200, ""));
    send(&sink(Kind::Alertmanager, &server.url), Telling::Escalated).unwrap();
    let request = server.only();
    assert_eq!(request.path, "/api/v2/alerts");
    let alerts = request.json();
    assert_eq!(alerts[0]["labels"]["severity"], "warning");
    assert_eq!(alerts[0]["endsAt"], "2026-01-01T01:00:00Z");
    assert_eq!(alerts[1]["labels"]["severity"], "critical");
    assert_eq!(alerts[1]["endsAt"], "2026-01-01T01:04:00Z");
}

/// A server for mail that takes one message, and what it was told. `greeting` is what it says first.
fn mail_server(greeting: &'static str) -> (u16, Arc<Mutex<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let told = Arc::<Mutex<String>>::default();
    let seen = Arc::clone(&told);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let seen = Arc::clone(&seen);
            thread::spawn(move || speak_smtp(stream, greeting, &seen));
        }
    });
    (port, told)
}

fn speak_smtp(mut stream: TcpStream, greeting: &str, seen: &Mutex<String>) {
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let reader = BufReader::new(stream.try_clone().unwrap());
    let _ = write!(stream, "{greeting}\r\n");
    let mut is_data = false;
    for line in reader.lines().map_while(Result::ok) {
        seen.lock().push_str(&format!("{line}\n"));
        let answer = match line.split(' ').next().unwrap_or_default() {
            "." if is_data => {
                is_data = false;
                "250 taken"
            }
            _ if is_data => continue,
            "EHLO" => "250-here\r\n250 AUTH PLAIN",
            "RCPT" if line.contains("greylisted@") => {
                // Welcome from the third time on.
                match seen.lock().matches("RCPT TO:<greylisted@").count() {
                    0..=2 => "451 later",
                    _ => "250 ok",
                }
            }
            "AUTH" => "235 welcome",
            "RCPT" if line.contains("nobody@") => "550 no such user",
            "RCPT" if line.contains("later@") => "450 later",
            "DATA" => {
                is_data = true;
                "354 go on"
            }
            "QUIT" => "221 bye",
            "STARTTLS" => "502 no",
            _ => "250 ok",
        };
        if write!(stream, "{answer}\r\n").is_err() {
            return;
        }
    }
}

fn mail(port: u16) -> Definition {
    Definition {
        host: Some("127.0.0.1".to_owned()),
        port: Some(port),
        tls: MailTls::None,
        from: Some("ntpmon@ntp.example".to_owned()),
        to: vec!["ops@ntp.example".to_owned()],
        timeout: Duration::from_millis(700),
        ..Definition::new("mail", Kind::Email)
    }
}

#[test]
fn one_whom_the_server_does_not_know_keeps_nobody_else_from_a_mail() {
    let to = |names: &[&str]| -> Vec<String> {
        let names = names.iter();
        names.map(|name| format!("{name}@ntp.example")).collect()
    };
    let (port, told) = mail_server("220 here");
    let mut sink = mail(port);
    sink.to = to(&["nobody", "ops"]);
    assert_eq!(send(&sink, Telling::Fired), Ok(()));
    assert!(told.lock().contains("Subject: "));
    sink.to = to(&["nobody"]);
    let failure = send(&sink, Telling::Fired).unwrap_err();
    assert!(failure.is_final, "{failure:?}");
    for names in [&["later"][..], &["nobody", "later", "ops"]] {
        sink.to = to(names);
        let failure = send(&sink, Telling::Fired).unwrap_err();
        assert!(!failure.is_final, "{failure:?}");
    }
}

#[test]
fn nobody_is_mailed_twice_because_another_is_to_be_told_later() {
    let (port, told) = mail_server("220 here");
    let mut sink = mail(port);
    sink.to = ["ops", "nobody", "greylisted"]
        .map(|name| format!("{name}@ntp.example"))
        .into();
    let notices = [notice(Telling::Fired)];
    let send = || sink.send(&notices, "greylisting", Timestamp::UNIX_EPOCH);
    let failure = send().unwrap_err();
    assert!(!failure.is_final, "{failure:?}");
    assert!(!send().unwrap_err().is_final);
    assert_eq!(send(), Ok(()));
    let told = told.lock();
    assert_eq!(told.matches("Subject: ").count(), 2, "{told}");
}

#[test]
fn mail_arrives_with_a_user_and_a_password() {
    let (port, told) = mail_server("220 here");
    let mut sink = mail(port);
    sink.user = Some("ada".to_owned());
    sink.password = Some(Secret::from("topsecret"));
    send(&sink, Telling::Resolved).unwrap();
    let told = told.lock().clone();
    let login = STANDARD.encode("\0ada\0topsecret");
    for part in [
        format!("AUTH PLAIN {login}").as_str(),
        "RCPT TO:<ops@ntp.example>",
        "Subject: [resolved] check-offset",
        "Message-ID: <id-1.ntpmon@ntp.example>",
        "back to normal",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
}

#[test]
fn what_is_encrypted_arrives_where_the_certificate_is_trusted_and_only_there() {
    let (plain, told) = mail_server("220 here");
    for (begin, way) in [
        (Begin::AtOnce, MailTls::Tls),
        (Begin::AfterStarttls, MailTls::Starttls),
    ] {
        let encrypted = BehindTls::new(plain, begin);
        let mut sink = mail(encrypted.port);
        sink.tls = way;
        sink.timeout = Duration::from_secs(5);
        let failure = send(&sink, Telling::Fired).unwrap_err();
        assert!(!failure.is_final, "{failure:?}");
        assert!(!told.lock().contains("MAIL"), "{}", told.lock());
        sink.ca_file = Some(encrypted.ca_file.clone());
        assert_eq!(send(&sink, Telling::Fired), Ok(()));
        let mut told = told.lock();
        assert!(told.contains("Subject: [critical] check-offset"), "{told}");
        told.clear();
    }

    let server = Server::new(Way::Answer(200, ""));
    let plain = server.url.rsplit(':').next().unwrap().parse().unwrap();
    let encrypted = BehindTls::new(plain, Begin::AtOnce);
    let url = format!("https://127.0.0.1:{}", encrypted.port);
    let mut sink = sink(Kind::Webhook, &url);
    sink.timeout = Duration::from_secs(5);
    let failure = send(&sink, Telling::Fired).unwrap_err();
    assert!(failure.why.contains("certificate"), "{failure:?}");
    assert_eq!(server.requests.lock().len(), 0);
    sink.ca_file = Some(encrypted.ca_file.clone());
    assert_eq!(send(&sink, Telling::Fired), Ok(()));
    assert_eq!(server.only().json()["state"], "firing");
}

#[test]
fn mail_that_is_refused_or_hangs_or_cannot_be_encrypted_is_a_failure() {
    let (port, _) = mail_server("554 go away");
    let failure = send(&mail(port), Telling::Fired).unwrap_err();
    assert!(failure.why.contains("go away"), "{failure:?}");
    // Nothing is sent in the clear where encryption is asked for.
    let (port, told) = mail_server("220 here");
    let mut sink = mail(port);
    sink.tls = MailTls::Starttls;
    assert!(send(&sink, Telling::Fired).is_err());
    assert!(!told.lock().contains("MAIL"), "{}", told.lock());
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let begun = Instant::now();
    assert!(send(&mail(silent.local_addr().unwrap().port()), Telling::Fired).is_err());
    assert!(begun.elapsed() < Duration::from_secs(5));
}

fn script(folder: &Path, text: &str) -> Definition {
    let path = folder.join("script");
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    Definition {
        command: vec![
            path.display().to_string(),
            "$(touch injected); `x`".to_owned(),
        ],
        timeout: Duration::from_millis(1500),
        ..Definition::new("command", Kind::Command)
    }
}

#[test]
fn a_command_is_told_by_its_input_and_its_environment_and_has_no_rights() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().display();
    let sink = script(
        folder.path(),
        &format!(
            "cat > {out}/input; env > {out}/environment; printf %s \"$1\" > {out}/argument\n\
             cp /proc/self/status {out}/status; ls -l /proc/self/fd > {out}/descriptors"
        ),
    );
    // What others chose is text, and nothing else.
    let mut told = notice(Telling::Fired);
    told.labels
        .insert("server".to_owned(), "$(reboot)\n`x`".to_owned());
    sink.send(&[told], "id-1", Timestamp::UNIX_EPOCH).unwrap();
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let input: Value = serde_json::from_str(&read("input")).unwrap();
    assert_eq!(input["delivery_id"], "id-1");
    assert_eq!(input["labels"]["server"], "$(reboot)\n`x`");
    let environment = read("environment");
    for line in [
        "NTPMON_ALERT_STATE=firing",
        "NTPMON_ALERT_SEVERITY=critical",
        "NTPMON_ALERT_RULE=check-offset",
        "NTPMON_ALERT_VALUE=0.0612",
        "NTPMON_ALERT_LABEL_SERVER=$(reboot)",
    ] {
        assert!(
            environment.lines().any(|it| it == line),
            "{line}: {environment}"
        );
    }
    assert!(!environment.contains("HOME="), "{environment}");
    assert_eq!(read("argument"), "$(touch injected); `x`");
    let status = read("status");
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        let line = status.lines().find(|line| line.starts_with(set)).unwrap();
        assert!(line.ends_with("\t0000000000000000"), "{line}");
    }
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
}

#[test]
fn a_command_that_fails_or_takes_too_long_or_is_not_there_is_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    let failing = script(folder.path(), "echo no modem >&2; exit 3");
    let failure = send(&failing, Telling::Fired).unwrap_err();
    assert!(
        failure.why.contains("no modem") && failure.why.contains('3'),
        "{failure:?}"
    );

    // Those that it started end with it.
    let out = folder.path().display();
    let hanging = script(
        folder.path(),
        &format!("sleep 60 & echo $! > {out}/child; wait"),
    );
    let begun = Instant::now();
    let failure = send(&hanging, Telling::Fired).unwrap_err();
    assert!(failure.why.contains("1.5 s"), "{failure:?}");
    assert!(begun.elapsed() < Duration::from_secs(5));
    let child = std::fs::read_to_string(folder.path().join("child")).unwrap();
    let state = || std::fs::read_to_string(format!("/proc/{}/stat", child.trim()));
    let is_gone = || state().is_ok_and(|it| it.contains(") Z ")) || state().is_err();
    let end = Instant::now() + Duration::from_secs(5);
    while !is_gone() {
        assert!(Instant::now() < end, "{:?}", state());
        thread::sleep(Duration::from_millis(10));
    }

    // Nor does one that writes without end, or does not read.
    let loud = script(folder.path(), "exec 0<&-; yes >&2");
    assert!(
        send(&loud, Telling::Fired)
            .unwrap_err()
            .why
            .contains("1.5 s")
    );
    let mut absent = script(folder.path(), "");
    absent.command = vec!["/nowhere/at/all".to_owned()];
    let failure = send(&absent, Telling::Fired).unwrap_err();
    assert!(failure.why.contains("/nowhere/at/all"), "{failure:?}");
}

#[test]
fn what_cannot_be_read_any_more_is_given_up() {
    let entry = Entry {
        number: 1,
        id: "id".to_owned(),
        destination: "log".to_owned(),
        subject: String::new(),
        created: Timestamp::UNIX_EPOCH,
        attempts: 1,
        refusals: 0,
        body: "[{}]".to_owned(),
    };
    let sink = Definition::new("log", Kind::Log);
    assert!(sink.deliver(&entry).unwrap_err().is_final);
    let body = serde_json::to_string(&[notice(Telling::Fired)]).unwrap();
    assert_eq!(sink.deliver(&Entry { body, ..entry }), Ok(()));
}
