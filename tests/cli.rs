//! What the command line says when something is wrong, and when it is asked.

use std::process::{Command, Output};

fn run(arguments: &[&str]) -> Output {
    run_with(arguments, None)
}

fn run_with(arguments: &[&str], config: Option<&str>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aurora-failover"));
    command.env_remove("AURORA_FAILOVER_CONFIG").args(arguments);
    command.envs(config.map(|config| ("AURORA_FAILOVER_CONFIG", config))).output().expect("the binary runs")
}

fn error_of(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    String::from_utf8(output.stderr).expect("text")
}

fn help(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{arguments:?}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn help_names_every_command_and_where_to_begin() {
    let text = help(&["--help"]);
    for command in ["serve", "canary", "init", "status", "history", "dlq", "lab", "lab drill region-loss", "RUST_LOG"] {
        assert!(text.contains(command), "{command} is missing in:\n{text}");
    }
}

#[test]
fn every_command_has_help() {
    for command in ["serve", "canary", "init", "status", "history"] {
        assert!(help(&[command, "--help"]).contains("--config"), "{command}");
    }
    assert!(help(&["lab", "drill", "--help"]).contains("Exits with 0 only if"));
    assert!(help(&["lab", "drill", "--list"]).lines().count() >= 30, "scenarios");
}

#[test]
fn a_missing_configuration_says_which_file_and_how_to_name_another() {
    let error = error_of(&["status", "--config", "/nowhere/at-all.toml"]);
    assert!(error.contains("/nowhere/at-all.toml") && error.contains("--config"), "{error}");
    assert_eq!(error.matches("No such file").count(), 1, "its cause stands there once: {error}");
}

/// The command line cannot be used: nothing is read, and what could have been meant is named.
#[test]
fn what_cannot_be_asked_for_is_refused_with_what_can_be() {
    for (arguments, known) in [
        (&["history", "--rule", "gard-refused"][..], "guard-refused"),
        (&["history", "--state", "asleep"], "confirmed-down"),
        (&["history", "--event", "weather"], "observation"),
        (&["history", "--outcome", "good"], "averted"),
        (&["audit", "export", "--state", "asleep"], "rerouting"),
        (&["episodes", "--outcome", "good"], "completed"),
        (&["override", "orders", "set-mode", "always"], "observe"),
    ] {
        let output = run_with(arguments, Some("/nowhere/at-all.toml"));
        let error = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.contains(known), "{arguments:?}: {error}");
    }
    for reason in ["", "  "] {
        let error = error_of(&["override", "orders", "abort", "--yes", "--reason", reason]);
        assert!(error.contains("--reason is needed"), "{error}");
    }
}

/// The commands that a help text lists.
fn commands(of: &[&str]) -> Vec<String> {
    let text = help(&[of, &["--help"]].concat());
    let listed = text.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = listed
        .filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next().filter(|_| !line.starts_with("   ")));
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

/// Every command by its words.
fn all_commands(of: &[&str]) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for name in commands(of) {
        let words = [of, &[name.as_str()]].concat();
        all.push(words.iter().map(|word| (*word).to_owned()).collect());
        all.extend(all_commands(&words));
    }
    all
}

#[test]
fn every_command_has_a_manual_page_and_every_shell_completions() {
    let dir = tempfile::tempdir().expect("a directory");
    help(&["man", dir.path().to_str().expect("text")]);
    let all = all_commands(&[]);
    let has = |words: &[&str]| all.iter().any(|known| known == words);
    assert!(all.len() > 40 && has(&["audit", "verify"]) && has(&["override", "failover-in-region"]), "{all:?}");
    for words in all {
        let page = dir.path().join(format!("aurora-failover-{}.1", words.join("-")));
        let text = std::fs::read_to_string(&page).unwrap_or_default();
        assert!(text.contains(".SH SYNOPSIS") && text.contains(".SH DESCRIPTION"), "{}", page.display());
    }
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let text = help(&["completions", shell]);
        assert!(text.lines().count() > 100 && text.contains("failover-in-region"), "{shell}");
    }
}

#[test]
fn a_wrong_configuration_names_every_key() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("wrong.toml");
    let example = include_str!("../aurora-failover.example.toml");
    let wrong = example.replace("quorum = 2", "quorum = 9").replace("[canary]", "[canary]\ninterval = \"soon\"");
    std::fs::write(&path, wrong).expect("it is written");
    let error = error_of(&["serve", "--config", path.to_str().expect("text")]);
    assert!(error.contains("cluster.orders.policy.quorum = 9"), "{error}");
    assert!(error.contains("canary.interval = \"soon\""), "{error}");
}

#[test]
fn an_unknown_vantage_is_refused_before_it_probes_in_vain() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/aurora-failover.example.toml");
    let error = error_of(&["canary", "--config", example, "--vantage", "mars"]);
    assert!(error.contains("mars") && error.contains("vantages"), "{error}");
}

#[test]
fn diagram_prints_the_table_that_is_in_the_repository() {
    assert_eq!(help(&["diagram"]), include_str!("../statemachine/transitions.md"));
}
