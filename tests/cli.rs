//! What the command line says when something is wrong, and when it is asked.

use std::process::{Command, Output};

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aurora-failover"));
    command.env_remove("AURORA_FAILOVER_CONFIG").args(arguments).output().expect("the binary runs")
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
