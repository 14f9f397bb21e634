//! What files, variables and flags mean, and what is said about those that mean nothing.

use super::*;

const NONE: [(&str, &str); 0] = [];

fn read(text: &str, variables: &[(&str, &str)]) -> Result<Loaded, String> {
    let source = Source::parse("c.toml".into(), text.into())?;
    let variables = variables.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    assemble(source, false, variables, &ServeArguments::default())
}

fn wrong(text: &str) -> Vec<String> {
    let error = read(text, &NONE).map(|_| "it is good").expect_err("it is wrong");
    error.lines().map(str::to_owned).collect()
}

fn json(config: &Config) -> Value {
    serde_json::to_value(config).expect("serializes")
}

#[test]
fn the_file_of_defaults_has_every_key_and_means_the_defaults() {
    let text = defaults();
    let config = read(&text, &NONE).unwrap_or_else(|error| panic!("{error}\n{text}")).config;
    assert_eq!(json(&config), json(&Config::default()));
    for path in Schema::get().paths() {
        let Some(Step::Key(key)) = path.0.last() else { continue };
        let shape = Schema::get().at(&path).expect("a shape");
        let table = path.to_string().replace("[0]", "");
        let is_there = text.lines().any(|line| {
            let line = line.trim_start_matches("# ");
            let is_header = line == format!("[{table}]") || line == format!("[[{table}]]");
            is_header || line.starts_with(&format!("{key} = "))
        });
        assert!(is_there, "{path} is missing ({:?})", shape.types);
    }
}

#[test]
fn every_plain_key_with_its_default_set_is_still_the_default() {
    // What is commented out because it belongs to a table that is off has the right type as well.
    let text = defaults();
    let mut uncommented = String::new();
    let mut is_optional = false;
    for line in text.lines() {
        if let Some(header) = line.strip_prefix("# [server.") {
            is_optional = true;
            uncommented.push_str(&format!("[server.{header}\n"));
        } else if line.starts_with('[') || line.starts_with("# [[") {
            is_optional = false;
        } else if let Some(key) = line.strip_prefix("# ").filter(|_| is_optional)
            && key.split_once(" = ").is_some_and(|(name, _)| Path::parse(name).is_some())
            && !key.ends_with("\"\"")
        {
            uncommented.push_str(key);
            uncommented.push('\n');
        }
    }
    let config = read(&uncommented, &NONE).unwrap_or_else(|error| panic!("{error}\n{uncommented}"));
    assert!(config.config.server.cors.is_some() && config.config.server.cookie.is_some());
    assert!(options(&config.config).is_ok());
}

#[test]
fn the_environment_counts_before_the_file_and_flags_before_both() {
    let text = "[server]\nlisten = [\"127.0.0.1:1\"]\nping_interval = \"1s\"\n\
        [[namespace]]\nname = \"/a\"\n";
    let variables = [
        ("CORECAST_SERVER_LISTEN", "127.0.0.1:2, 127.0.0.1:3"),
        ("CORECAST_SERVER_PING_INTERVAL", "2s"),
        ("CORECAST_SERVER_PING_TIMEOUT", "2s"),
        ("CORECAST_SERVER_ALLOW_EIO3", "true"),
        ("CORECAST_SERVER_MAX_ROOMS", "7"),
        ("CORECAST_SERVER_CORS_ORIGINS", "[\"https://a.example\"]"),
        ("CORECAST_NAMESPACE_0_NAME", "/b"),
        ("CORECAST_NAMESPACE_1_NAME", "/c"),
        ("CORECAST_CONFIG", "ignored"),
        ("PATH", "ignored"),
    ];
    let source = Source::parse("c.toml".into(), text.into()).expect("TOML");
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let command = "corecast --ping-timeout 3000 --log-level warn";
    let arguments = ServeArguments::of(command);
    let loaded = assemble(source, true, variables.into_iter(), &arguments);
    let loaded = loaded.unwrap_or_else(|error| panic!("{error}"));
    let server = &loaded.config.server;
    assert_eq!(server.listen.iter().map(|at| at.port()).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(server.ping_interval, units::Time::secs(2));
    assert_eq!(server.ping_timeout, units::Time::secs(3));
    assert!(server.allow_eio3 && server.max_rooms == 7);
    assert_eq!(server.cors.as_ref().expect("a table").origins, ["https://a.example"]);
    assert_eq!(loaded.config.log.level, "warn");
    let names: Vec<&str> = loaded.config.namespaces.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["/b", "/c"]);
    assert!(loaded.warnings.is_empty() && !loaded.is_bare);
}

#[test]
fn every_key_has_a_variable_and_no_two_have_the_same() {
    let (schema, mut seen) = (Schema::get(), std::collections::HashMap::new());
    for path in schema.paths() {
        if let Some(other) = seen.insert(source::variable(&path), path.clone()) {
            panic!("{path} and {other} are one variable");
        }
    }
}

#[test]
fn variables_that_nearly_name_a_key_are_doubted_and_others_are_not_ours() {
    let variables = [
        ("CORECAST_SERVER_LISTNE", "x"),
        ("CORECAST_AUTH_SECRET", "x"),
        ("CORECAST_DEMO_CMD", "x"),
        ("CORECAST_API_SERVICE_HOST", "x"),
        ("CORECAST_API_PORT_4001_TCP", "x"),
    ];
    let warnings = read("", &variables).map_err(|error| panic!("{error}")).map(|it| it.warnings);
    let text = "CORECAST_SERVER_LISTNE: there is no such key; did you mean CORECAST_SERVER_LISTEN?";
    let ignored = "CORECAST_AUTH_SECRET: there is no such key, so it is ignored";
    assert_eq!(warnings, Ok::<_, ()>(vec![text.to_owned(), ignored.to_owned()]));
}

#[test]
fn variables_that_cannot_be_are_named() {
    for (variable, value, said) in [
        ("CORECAST_SERVER_ALLOW_EIO3", "yes", "true or false is wanted"),
        ("CORECAST_SERVER_MAX_ROOMS", "many", "a whole number is wanted"),
        ("CORECAST_NAMESPACE_4_NAME", "/x", "the next one is number 1"),
        ("CORECAST_SERVER_PING_INTERVAL", "5", "a time with its unit"),
        ("CORECAST_SERVER_CORS", "x", "a JSON object is wanted"),
    ] {
        let error = read("", &[(variable, value)]).map(|_| "good").expect_err(variable);
        assert!(error.starts_with(variable) && error.contains(said), "{error}");
    }
}

#[test]
fn problems_are_told_with_line_and_key_and_all_at_once() {
    let said = wrong(
        "[server]\nping_intervall = \"25s\"\nping_timeout = 20\n\
         listen = [\"0.0.0.0:4000\", \"x\"]\n[sever]\n[[namespace]]\nname = \"/\"\n\
         [[namespace.route]]\nevent = \"a\"\ndo = \"brodcast\"\n[api]\nping_interval = 1\n",
    );
    let expected = [
        ("c.toml:2: server.ping_intervall: ", "did you mean \"ping_interval\"?"),
        ("c.toml:3: server.ping_timeout: ", "a time with its unit, such as \"25s\""),
        ("c.toml:4: server.listen[1]: ", "an address with a port"),
        ("c.toml:5: sever: ", "did you mean \"server\"?"),
        ("c.toml:10: namespace[0].route[0].do: ", "did you mean \"broadcast\"?"),
        ("c.toml:12: api.ping_interval: ", "did you mean \"server.ping_interval\"?"),
    ];
    for (place, text) in expected {
        let found = said.iter().any(|line| line.starts_with(place) && line.contains(text));
        assert!(found, "{place}{text}\n{}", said.join("\n"));
    }
    assert_eq!(said.len(), expected.len(), "{}", said.join("\n"));
}

#[test]
fn what_is_no_toml_is_told_without_the_line_itself() {
    let said = wrong("[server]\npath = \"/a\"\nsecret hunter2\n");
    assert!(said[0].starts_with("c.toml:3: "), "{said:?}");
    assert!(!said[0].contains("hunter2"), "{said:?}");
}

#[test]
fn later_checks_are_located_by_their_key() {
    let text = "[server]\nreceive_buffers = 3\n\n[[namespace]]\nname = \"chat\"\n";
    let loaded = read(text, &NONE).unwrap_or_else(|error| panic!("{error}"));
    let error = options(&loaded.config).expect_err("no power of two");
    let located = loaded.locate(&error);
    assert_eq!(located, "c.toml:2: server.receive_buffers: must be a power of two");
    let located = loaded.locate("namespace \"chat\": name: no");
    assert_eq!(located, "c.toml:5: namespace[0].name: no");
    assert_eq!(loaded.locate("namespace \"chat\": no"), "c.toml:4: namespace[0]: no");
    assert_eq!(loaded.locate("something: else"), "something: else");
}

#[test]
fn what_needs_a_restart_is_known() {
    let running = Config::default();
    let mut new = running.clone();
    new.server.path = "/other".into();
    new.server.cors = Some(server::Cors::default());
    new.log.level = "debug".into();
    new.log.format = super::log::Format::Json;
    new.drain.over = units::Time::secs(1);
    new.server.proxy.trusted.push("10.0.0.0/8".into());
    new.server.max_rooms = 5;
    new.limits.connections_per_ip = Some(5);
    new.server.ping_interval = units::Time::secs(1);
    new.namespaces.clear();
    let mut changed = fixed_changes(&running, &new);
    changed.sort();
    assert_eq!(changed, ["log.format", "server.path", "server.ping_interval"]);
    assert!(fixed_changes(&running, &running).is_empty());
}
