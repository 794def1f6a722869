//! The real binary, and labs that do not outlive a test.

use serde_json::Value;
use std::io::{BufRead as _, BufReader, Read as _};
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_aurora-failover");

/// A process that does not outlive a test that fails.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _ended_already = self.0.wait();
    }
}

impl Deref for Running {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Running {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

pub(crate) fn start(arguments: &[&str]) -> Running {
    let mut command = Command::new(BINARY);
    command.arg("lab").args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Running(command.spawn().expect("the binary starts"))
}

/// Everything that it says until it ends.
pub(crate) fn output(mut running: Running) -> Output {
    let mut errors = running.stderr.take().expect("piped");
    let reading = std::thread::spawn(move || {
        let mut text = Vec::new();
        errors.read_to_end(&mut text).map(|_| text)
    });
    let mut stdout = Vec::new();
    running.stdout.take().expect("piped").read_to_end(&mut stdout).expect("readable");
    let stderr = reading.join().expect("no panic").expect("readable");
    Output { status: running.wait().expect("it ends"), stdout, stderr }
}

/// Pause between two looks of [`until`].
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What `look` finds, as soon as it does; panics with what it says instead after `within`.
pub(crate) fn until<T>(within: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let began = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(instead) => assert!(began.elapsed() < within, "not within {within:?}: {instead}"),
        }
        std::thread::park_timeout(LOOK_EVERY);
    }
}

/// A command of the product in the lab's environment: its exit code, and all that it says.
pub(crate) fn product(environment: &[(String, String)], arguments: &[&str]) -> (i32, String) {
    let mut command = Command::new(BINARY);
    command.args(arguments).envs(environment.iter().cloned()).stdin(Stdio::null());
    let output = command.output().expect("the binary starts");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8(said).expect("text"))
}

/// The same for a command that has to succeed and prints JSON.
pub(crate) fn json(environment: &[(String, String)], arguments: &[&str]) -> Value {
    let (code, said) = product(environment, &[arguments, &["--output", "json"]].concat());
    assert_eq!(code, 0, "{arguments:?}: {said}");
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {said}"))
}

/// Waits until the lab's cluster has moved, and gives its record.
pub(crate) fn until_stable(environment: &[(String, String)], within: Duration) -> Value {
    until(within, || {
        let record = json(environment, &["status"])[0]["record"].take();
        if record["state"]["name"] == "stable" { Ok(record) } else { Err(format!("{record:#}")) }
    })
}

/// A lab that is up: its directory, and the environment that it says to export.
pub(crate) fn start_with_environment() -> (Running, PathBuf, Vec<(String, String)>) {
    start_up(&[])
}

/// The same with these arguments.
pub(crate) fn start_up(arguments: &[&str]) -> (Running, PathBuf, Vec<(String, String)>) {
    let mut lab = start(arguments);
    let mut lines = BufReader::new(lab.stdout.take().expect("piped")).lines();
    let (mut dir, mut environment) = (PathBuf::new(), Vec::new());
    loop {
        let Some(Ok(line)) = lines.next() else {
            let mut errors = String::new();
            let _best_effort = lab.stderr.take().expect("piped").read_to_string(&mut errors);
            panic!("the lab ended before it was up: {errors}");
        };
        if let Some(path) = line.strip_prefix("logs ") {
            dir = PathBuf::from(path.trim());
        }
        if let Some(url) = line.strip_prefix("dashboard ") {
            environment.push(("DASHBOARD".to_owned(), url.trim().to_owned()));
        }
        let exported = line.strip_prefix("export ").and_then(|export| export.split_once('='));
        // Its value is for a shell, which puts the old one behind it.
        let exported = exported.filter(|(name, _)| *name != "PATH");
        environment.extend(exported.map(|(name, value)| (name.to_owned(), value.to_owned())));
        if line.ends_with(" status") {
            break;
        }
    }
    // The reader goes away here: a lab must go on when nobody reads what it prints.
    (lab, dir, environment)
}

/// What it prints for programs, which is as the published schema says.
pub(crate) fn checked(environment: &[(String, String)], schema: &str, arguments: &[&str]) -> Value {
    let mut command = Command::new(BINARY);
    command.args(arguments).args(["--output", "json"]).envs(environment.iter().cloned()).stdin(Stdio::null());
    let output = command.output().expect("the binary starts");
    let said = String::from_utf8([output.stdout, output.stderr].concat()).expect("text");
    let printed = serde_json::Deserializer::from_str(&said).into_iter().next().expect("something is printed");
    let printed: Value = printed.unwrap_or_else(|error| panic!("{arguments:?}: {error}: {said}"));
    let published = std::fs::read_to_string(format!("{}/schemas/{schema}.json", env!("CARGO_MANIFEST_DIR")));
    let published: Value = serde_json::from_str(&published.expect("it is published")).expect("JSON");
    let validator = jsonschema::validator_for(&published).expect("a schema");
    if let Some(error) = validator.iter_errors(&printed).next() {
        panic!("{arguments:?} is not as {schema} says: {error} at {}", error.instance_path());
    }
    printed
}
