//! Configuration from outside: what `corecast config` prints and says, and that `serve` says the
//! same. What each key means is tested beside the code that reads it.

use std::process::{Command, Output};

use super::rig::Folder;

fn corecast(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_corecast"));
    command.args(arguments).env_remove("RUST_LOG").envs(variables.iter().copied());
    command.output().expect("corecast runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// Checks a file; `Ok` with what was printed, or `Err` with what was wrong.
fn check(toml: &str, variables: &[(&str, &str)]) -> Result<String, String> {
    let folder = Folder::new();
    let file = folder.write("corecast.toml", toml).display().to_string();
    let output = corecast(&["config", "check", "--config", &file], variables);
    let (out, errors) = (text(&output.stdout), text(&output.stderr));
    match output.status.code() {
        Some(0) => Ok(out + &errors),
        Some(1) => Err(errors.replace(&file, "corecast.toml")),
        code => panic!("exit code {code:?}: {errors}"),
    }
}

#[test]
fn the_file_that_is_printed_is_good_and_has_every_key() {
    let printed = text(&corecast(&["config", "default"], &[]).stdout);
    check(&printed, &[]).unwrap_or_else(|error| panic!("{error}"));
    let schema = text(&corecast(&["config", "schema"], &[]).stdout);
    let schema: serde_json::Value = serde_json::from_str(&schema).expect("JSON");
    let tables = schema["properties"].as_object().expect("tables");
    assert!(tables.len() >= 8, "{tables:?}");
    for table in tables.keys() {
        let forms = [format!("[{table}]"), format!("{table} = ")];
        assert!(forms.iter().any(|form| printed.contains(form)), "{table}");
    }
}

#[test]
fn the_page_of_the_keys_is_what_they_say() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
    let page = text(&corecast(&["config", "reference"], &[]).stdout);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &page).expect("docs/configuration.md is written");
    }
    let there = std::fs::read_to_string(path).unwrap_or_default();
    for (is, wanted) in there.lines().zip(page.lines()) {
        let how = "UPDATE_DOCS=1 cargo nextest run --test gateway config:: writes it";
        assert_eq!(is, wanted, "docs/configuration.md; {how}");
    }
    assert_eq!(there.len(), page.len(), "docs/configuration.md ends too early or too late");
    for row in page.lines().filter(|line| line.starts_with("| `")) {
        assert!(!row.ends_with("|  |"), "nothing is said of {row}");
    }
}

#[test]
fn everything_wrong_is_told_with_file_line_and_key() {
    let error = check(
        "[server]\nping_intervall = \"25s\"\nping_timeout = 20\npath = \"no-slash\"\n\n\
         [[namespace]]\nname = \"/\"\n\n[[namespace.route]]\nevent = \"say\"\ndo = \"brodcast\"\n",
        &[],
    );
    let error = error.expect_err("four mistakes");
    for (place, said) in [
        ("corecast.toml:2: server.ping_intervall: ", "did you mean \"ping_interval\"?"),
        ("corecast.toml:3: server.ping_timeout: ", "a time with its unit, such as \"25s\""),
        ("corecast.toml:11: namespace[0].route[0]", "brodcast"),
    ] {
        let is_told = |line: &str| line.contains(place) && line.contains(said);
        assert!(error.lines().any(is_told), "{place}…{said}\n{error}");
    }
    // What only a whole configuration can show.
    let error = check("[server]\npath = \"no-slash\"\n[log]\nlevel = \"loud=very\"\n", &[]);
    let error = error.expect_err("two mistakes");
    assert!(error.contains("corecast.toml:2: server.path: must begin with /"), "{error}");
    assert!(error.contains("corecast.toml:4: log.level: "), "{error}");
}

/// What only shows when a file is made ready is all told, too.
#[test]
fn everything_that_cannot_work_is_told_at_once() {
    let toml = "[server]\npage = \"none.html\"\n[log]\nlevel = \"verbose\"\n\
        [limits]\nuser_events = { per_second = 0 }\nsocket_bytes = { per_second = -1 }\n\
        [[api.key]]\nname = \"a\"\nkey = \"short\"\n\
        [[webhook]]\nname = \"php\"\n[[webhook]]\nname = \"b\"\nurl = \"nowhere\"\n\
        [[namespace]]\nname = \"chat\"\n\
        [[namespace.route]]\nevent = \"a*b\"\ndo = \"drop\"\n\
        [[namespace.route]]\nevent = \"c\"\ndo = \"room\"\n\
        [[namespace.route]]\nevent = \"d\"\ndo = \"worker\"\n\
        [[namespace.route]]\nevent = \"e\"\ndo = \"webhook\"\nwebhook = \"ruby\"\n";
    let error = check(toml, &[]).expect_err("much");
    for expected in [
        "corecast.toml:2: server.page: cannot read none.html: No such file",
        "corecast.toml:4: log.level: \"verbose\" is none of off, error, warn, info, debug, trace",
        "corecast.toml:6: limits.user_events: per_second",
        "corecast.toml:7: limits.socket_bytes: per_second",
        "corecast.toml:10: api.key[0].key: needs at least 16 characters",
        "webhook[0].url: is missing",
        "corecast.toml:15: webhook[1].url: ",
        "corecast.toml:17: namespace[0].name: it has to begin with /",
        "corecast.toml:19: namespace[0].route[0].event: ",
        "namespace[0].route[1].to: names the room",
        "corecast.toml:26: namespace[0].route[2].do: no worker can come without a [[workers.key]]",
        "corecast.toml:30: namespace[0].route[3].webhook: there is no \"ruby\"",
    ] {
        assert!(error.contains(expected), "{expected}\n{error}");
    }
    assert_eq!(error.lines().count(), 12, "{error}");
}

/// Nobody has to know Rust to read them.
#[test]
fn values_of_the_wrong_kind_are_told_in_plain_words() {
    let socket_address = "an address with a port is wanted, such as \"127.0.0.1:4000\"";
    for (toml, said) in [
        ("[server]\nlisten = \"127.0.0.1:4000\"\n", "a list is wanted, such as [\"…\"]"),
        ("[server]\nlisten = [\"localhost:4000\"]\n", socket_address),
        ("[server]\nmax_rooms = \"many\"\n", "\"many\" does not belong here: a whole number"),
        ("[namespace]\nname = \"/\"\n", "each begun with [[namespace]]"),
        ("[[namespace.route]]\nevent = \"a\"\ndo = \"drop\"\n", "each begun with [[namespace]]"),
        ("[webhook]\nname = \"a\"\n", "each begun with [[webhook]]"),
        (
            "[limits]\nsocket_events = 5\n",
            "5 does not belong here: a table is wanted, such as { per_second = … }",
        ),
        ("[server]\nadd_trailing_slash = 1\n", "true or false is wanted"),
        ("[server]\npath = 5\n", "a text is wanted, in quotes"),
        ("[auth]\nkey = [\"x\"]\n", "that belongs here: a table is wanted"),
    ] {
        let error = check(toml, &[]).expect_err(toml);
        assert!(error.contains(said), "{toml}{error}");
        for rust in ["sequence", "usize", "struct", "invalid type"] {
            assert!(!error.contains(rust), "{toml}{error}");
        }
    }
}

#[test]
fn each_kind_of_mistake_has_its_place() {
    for (toml, place) in [
        ("[server\n", "corecast.toml:1: "),
        ("[server]\nlisten = [\"nowhere\"]\n", "corecast.toml:2: server.listen[0]: "),
        ("[server]\ntransports = []\n", "corecast.toml:2: server.transports: name one"),
        ("[server]\nmax_queue_bytes = \"1 parsec\"\n", "corecast.toml:2: server.max_queue_bytes: "),
        ("\n[server]\nparser = \"jason\"\n", "corecast.toml:3: server.parser: "),
        ("[server]\npath = \"/a\"\npath = \"/b\"\n", "corecast.toml:3: "),
        ("[trace]\nsample = 2.0\n", "corecast.toml:2: trace.sample: a share"),
        ("[trace]\nendpoint = \"collector\"\n", "corecast.toml:2: trace.endpoint: a URL"),
        ("[[namespace]]\n", "corecast.toml:1: namespace[0]: missing field `name`"),
        ("[[namespace]]\nname = \"chat\"\n", "corecast.toml:2: namespace[0].name: it has to begin"),
        ("[drain]\nover = \"soon\"\n", "corecast.toml:2: drain.over: "),
        ("drian = 1\n", "corecast.toml:1: drian: there is no such key; did you mean \"drain\"?"),
    ] {
        let error = check(toml, &[]).expect_err(toml);
        assert!(error.contains(place), "{toml}{error}");
    }
    let missing = corecast(&["config", "check", "--config", "/nowhere/corecast.toml"], &[]);
    assert!(text(&missing.stderr).contains("/nowhere/corecast.toml: "));
}

#[test]
fn the_environment_is_checked_as_the_file_is() {
    let error = check("[server]\npath = \"/a\"\n", &[("CORECAST_SERVER_PATH", "b")]);
    let error = error.expect_err("no slash");
    assert!(error.contains("CORECAST_SERVER_PATH: server.path: must begin with /"), "{error}");
    let told = check("", &[("CORECAST_SERVER_PTAH", "/b")]).expect("only a doubt");
    assert!(told.contains("did you mean CORECAST_SERVER_PATH?"), "{told}");
    // Variables alone make a configuration, too.
    let output = corecast(&["config", "check"], &[("CORECAST_NAMESPACE_0_NAME", "chat")]);
    let error = text(&output.stderr);
    assert!(error.contains("CORECAST_NAMESPACE_0_NAME: namespace[0].name: it has to"), "{error}");
}

#[test]
fn a_variable_may_be_any_value_where_the_key_may() {
    let toml = "[[namespace]]\nname = \"/\"\n\
                [[namespace.route]]\nevent = \"here\"\ndo = \"reply\"\n";
    for ack in ["here", "5", "{\"is\":true}", "[1]"] {
        check(toml, &[("CORECAST_NAMESPACE_0_ROUTE_0_ACK", ack)]).expect(ack);
    }
}

/// Whoever joins a second namespace is asked for its origin again.
#[test]
fn heads_are_kept_where_origins_are_looked_at() {
    let server = "[server]\nretain_handshake = false\n[[namespace]]\nname = \"/a\"\n";
    check(server, &[]).expect("nobody asks for them");
    let bound = format!("{server}[namespace.auth]\norigins = [\"https://a.example\"]\n");
    let error = check(&bound, &[]).expect_err("somebody does");
    assert!(error.contains("corecast.toml:2: server.retain_handshake: has to be true"), "{error}");
}

#[test]
fn a_server_does_not_start_on_what_a_check_refuses() {
    let folder = Folder::new();
    let file = folder.write("corecast.toml", "[server]\nlissten = []\n");
    let file = file.display().to_string();
    let output = corecast(&["serve", "--config", &file], &[]);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains(&format!("{file}:2: server.lissten: ")), "{error}");
    assert!(output.stdout.is_empty(), "it has not begun to listen");
}

#[test]
fn secrets_are_in_no_message() {
    for toml in [
        "[api]\nlisten = \"127.0.0.1:1\"\nhunter2\n",
        "[[api.key]]\nname = \"a\"\nsecret = [\"hunter2\"]\n",
        "[[api.key]]\nname = \"a\"\nkey = [\"hunter2\"]\n",
        "[auth]\nsecret = [\"hunter2\"]\n",
        "[auth]\nkey = [\"hunter2\"]\n",
        "[auth]\nkey = \"hunter2\"\n",
        "[[auth.key]]\nsecret = [\"hunter2\"]\n",
        "[api]\nkey = [\"hunter2\"]\n",
        "[workers]\nkey = [[\"hunter2\"]]\n",
        "[[webhook]]\nname = \"a\"\nsecret = [\"hunter2\"]\nsecrets = { a = \"hunter2\" }\n",
    ] {
        let error = check(toml, &[]).expect_err(toml);
        assert!(!error.contains("hunter2"), "{toml}{error}");
    }
    let variables = [("CORECAST_AUTH_KEY", "[\"hunter2\"]")];
    let error = check("", &variables).expect_err("no key is a text");
    assert!(error.contains("CORECAST_AUTH_KEY: auth.key[0]: "), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
    // Not the kind of value that a list is.
    let error = check("", &[("CORECAST_API_LISTEN", "hunter2")]).expect_err("no address");
    assert!(error.contains("CORECAST_API_LISTEN"), "{error}");
}
