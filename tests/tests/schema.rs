//! The API against its own OpenAPI document: schemathesis makes up requests from what the daemon
//! serves at `/api/openapi.json`, right ones and wrong ones, and holds each answer against it. The
//! same requests each time.

#![allow(
    clippy::unwrap_used,
    reason = "a step that fails fails its test, also in a helper"
)]

use std::{fs, path::Path, process::Command, time::Duration};

use ntpmon_tests::{
    api::Api,
    daemon::{Daemon, Home},
    load::Exchanges,
    namespace::{Namespace, Pair, connect},
    process::{run, wait_for},
    python,
    watch::binary,
};

/// As the examples of the document have it, besides that which has traffic.
const EXAMPLE: &str = "eth0";
const SEED: &str = "20260101";
/// How many requests are made up of each kind for each operation, and how long that may take.
const EXAMPLES: &str = "12";
const SECONDS: &str = "40";
/// What asks meanwhile.
const CLIENTS: u16 = 200;
const PAUSE: Duration = Duration::from_millis(1);
/// Names of what there is, for routes that say nothing of what there is not.
const KNOWN: &str = "[parameters]
\"path.name\" = \"eth0\"
\"path.ip\" = \"10.1.0.5\"
";
const PATIENCE: Duration = Duration::from_secs(30);
/// Every answer has a status, a content type, headers and a body that are documented, and none says
/// that the daemon failed; methods that there are not are refused, and so is who has no right to ask.
/// Not that all is taken that the document allows: no schema says which addresses there are, or which
/// parameters exclude each other.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
                      response_headers_conformance,response_schema_conformance,\
                      unsupported_method,allow_header_conformance,ignored_auth,\
                      missing_required_header";

/// A daemon with a history, a watched interface and one that is not.
struct Stage {
    pair: Pair,
    home: Home,
    daemon: Daemon,
    load: Exchanges,
}

impl Stage {
    fn new(home: Home, token: Option<&str>) -> Self {
        let pair = Pair::new().unwrap();
        connect((&pair.server, EXAMPLE), (&pair.client, EXAMPLE)).unwrap();
        pair.server.ip(&format!("link set {EXAMPLE} up")).unwrap();
        let mut command = home
            .command_watching(&pair.server, &[], "127.0.0.1:0", &[Pair::DEVICE])
            .unwrap();
        let daemon = home.start(&mut command).unwrap();
        // It goes on: what a made-up request removes comes back.
        let load = Exchanges::start(&pair, CLIENTS, PAUSE).unwrap();
        let stage = Self {
            pair,
            home,
            daemon,
            load,
        };
        wait_for("a history", PATIENCE, || {
            let path = "/api/ntp/history/service/statistics";
            let statistics = stage.api(token).get(path)?.success()?;
            let clients = statistics["data"]["client_count"].as_u64();
            Ok((clients == Some(u64::from(CLIENTS))).then_some(()))
        })
        .unwrap();
        stage
    }

    fn api(&self, token: Option<&str>) -> Api<'_> {
        let api = Api::of(&self.daemon, &self.pair.server).unwrap();
        match token {
            Some(token) => api.with_token(token),
            None => api,
        }
    }

    /// Runs schemathesis; what it found is the failure.
    fn check(self, token: Option<&str>) {
        let mut command = host_command(&self.pair.server);
        command
            .args(["run", &self.api(None).url("/api/openapi.json")])
            .args(["--checks", CHECKS])
            .args(["--phases", "examples,coverage,fuzzing,stateful"])
            .args(["--seed", SEED, "--max-examples", EXAMPLES])
            // One after the other: while one has the file compacted, another is told to come back,
            // and CPython 3.11 trips over itself when several threads make requests up.
            .args(["--max-failures", "20", "--workers", "1", "--no-color"])
            .args(["--request-timeout", "20", "--max-time", SECONDS])
            .env("no_proxy", "*")
            .current_dir(self.home.path(""));
        if let Some(token) = token {
            command.args(["--header", &format!("Authorization: Bearer {token}")]);
        }
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        eprintln!("{said}");
        assert!(
            output.status.success(),
            "{said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(
            said.contains("API probing") || said.contains("Test cases"),
            "{said}"
        );
        // It took all that, and still does its work.
        let health = self.api(token).get("/api/ntp/health").unwrap();
        assert_eq!(health.success().unwrap()["status"], "healthy");
        assert!(
            !self.daemon.stderr().contains("panic"),
            "{}",
            self.daemon.stderr()
        );
        self.load.stop().unwrap();
    }
}

fn host_command(host: &Namespace) -> Command {
    host.command(python::program("schemathesis").unwrap())
}

#[test]
fn without_tokens_every_answer_is_as_documented() {
    let home = Home::new().unwrap();
    Stage::new(home, None).check(None);
}

#[test]
fn with_a_token_every_answer_is_as_documented() {
    let home = Home::new().unwrap();
    let tokens: &Path = &home.path("tokens.toml");
    let path = tokens.display().to_string();
    home.configure(&format!("api.tokens_file = {path:?}\n"))
        .unwrap();
    let mut command = Command::new(binary().unwrap());
    command
        .args(["token", "create", "keeper", "--scope", "admin", "--config"])
        .arg(home.path("ntpmon.toml"));
    let token = run(&mut command).unwrap().trim().to_owned();
    assert!(fs::exists(tokens).unwrap());
    // Without, names of what there is not are made up too.
    fs::write(home.path("schemathesis.toml"), KNOWN).unwrap();
    Stage::new(home, Some(&token)).check(Some(&token));
}
