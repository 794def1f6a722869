//! Drills with the real binary on real PostgreSQL and DNS, one after another: each one wants the machine.
#![cfg(feature = "lab")]

mod support;

use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};
use support::{
    BINARY, Running, checked, json, output, product, start, start_up, start_with_environment, until, until_stable,
};

/// Longest time for a lab to listen.
const UP_WITHIN: Duration = Duration::from_secs(30);

/// Longest time for whatever was broken to be well again.
const RECOVERED_WITHIN: Duration = Duration::from_secs(60);

/// Longest time for episodes to close.
const CLOSED_WITHIN: Duration = Duration::from_secs(90);

/// Longest time for a lab's leavings to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(20);

fn alone() -> MutexGuard<'static, ()> {
    static MACHINE: Mutex<()> = Mutex::new(());
    MACHINE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn drill(arguments: &[&str]) -> Value {
    let output = output(start(arguments));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    serde_json::from_str(&out).expect("standard output is one JSON object")
}

fn assert_recovered(result: &Value) {
    assert_eq!(result["outcome"], "passed", "{result:#}");
    assert_eq!(result["failover_calls"], 1, "{result:#}");
    // Between regions replication is asynchronous: what was on its way may be lost, and is counted.
    assert!(result["lost_writes"].as_u64().is_some_and(|lost| lost <= 5), "{result:#}");
}

/// Every scenario that comes with the program, one after the other.
#[test]
fn every_scenario_ends_as_it_says() {
    let _machine = alone();
    let output = output(start(&["drill", "--all"]));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let problems: Vec<&str> = out.lines().filter(|line| line.starts_with("problem")).collect();
    let told = err.lines().last().unwrap_or_default();
    assert!(output.status.success(), "{}\n{problems:#?}\n{told}\n{out}", output.status);
    assert!(out.lines().filter(|line| line.contains(" passed ")).count() >= 30, "{out}");
}

#[test]
fn a_scenario_that_expects_what_does_not_come_fails_and_says_so() {
    let _machine = alone();
    let wrong = include_str!("scenarios/isolated-vantage.toml").replace("path = []", "path = [\"stable\"]");
    let file = tempfile::Builder::new().suffix(".toml").tempfile().expect("a file");
    fs::write(file.path(), wrong + "failover-calls = 1\n").expect("written");
    let output = output(start(&["drill", file.path().to_str().expect("text"), "--json"]));
    assert_eq!(output.status.code(), Some(1));
    let result: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(result["outcome"], "failed");
    let problems = result["problems"].to_string();
    assert!(problems.contains("not stable") && problems.contains("0 FailoverGlobalCluster calls"), "{problems}");
}

#[test]
fn a_lost_region_is_replaced_and_every_millisecond_is_accounted_for() {
    let _machine = alone();
    let page = tempfile::NamedTempFile::new().expect("a file");
    let html = page.path().to_str().expect("text");
    let result = drill(&["drill", "region-loss", "--json", "--html", html]);
    assert_recovered(&result);
    let page = fs::read_to_string(page.path()).expect("it is written");
    for text in ["<svg", "statements per second", "confirmed-down", "us-east-2 vanishes", "passed"] {
        assert!(page.contains(text), "{text} is not in the page");
    }
    let phases = result["phases"].as_array().expect("phases");
    let names: Vec<&str> = phases.iter().filter_map(|phase| phase["name"].as_str()).collect();
    assert_eq!(names, ["before the fault", "detect", "decide", "promote", "reroute", "client", "verify"]);
    let in_outage = phases.iter().filter(|phase| phase["in_outage"] == true);
    let accounted: u64 = in_outage.filter_map(|phase| phase["ms"].as_u64()).sum();
    let outage = result["outage_ms"].as_u64().expect("an outage");
    assert!(outage.abs_diff(accounted) <= 10, "{accounted} of {outage} ms are accounted for: {result:#}");
    let states: Vec<&str> = result["timeline"]
        .as_array()
        .expect("a timeline")
        .iter()
        .filter_map(|moment| moment["state"].as_str())
        .collect();
    assert_eq!(states, ["suspect", "confirmed-down", "promoting", "rerouting", "stable"]);
}

#[test]
fn a_name_moved_by_data_plane_follows_the_writer_while_route_53_cannot_be_changed() {
    let _machine = alone();
    let faults = ["--route", "health-check", "--aws-fault", "route53=server-error:100"];
    let result = drill(&[&["drill", "region-loss", "--json"], &faults[..]].concat());
    assert_recovered(&result);
}

#[test]
fn a_controller_killed_on_the_way_ends_well_after_its_restart() {
    let _machine = alone();
    let result = drill(&["drill", "region-loss", "--json", "--kill-controller", "--seed", "2", "--repeat", "3"]);
    assert_eq!(result["passed"], 3, "{result:#}");
    for run in result["runs"].as_array().expect("runs") {
        assert_recovered(run);
        assert!(run["controller_killed_at_ms"].is_u64());
    }
}

#[test]
fn a_lossy_aws_and_a_killed_controller_of_two_end_in_one_failover() {
    let _machine = alone();
    let faults =
        ["--aws-fault", "rds=lost-reply:30", "--aws-fault", "all=server-error:10", "--aws-fault", "all=reset:5"];
    let arguments = ["drill", "region-loss", "--json", "--controllers", "2", "--kill-controller", "--seed", "7"];
    let result = drill(&[&arguments[..], &faults[..]].concat());
    assert_recovered(&result);
}

#[test]
fn two_labs_run_side_by_side() {
    let _machine = alone();
    let drills = [start(&["drill", "region-loss", "--json"]), start(&["drill", "region-loss", "--json"])];
    for drill in drills {
        let output = output(drill);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_recovered(&serde_json::from_slice(&output.stdout).expect("JSON"));
    }
}

#[test]
fn nothing_survives_a_lab_that_is_killed() {
    let _machine = alone();
    let segments = shared_memory();
    let (mut lab, dir) = start_and_wait();
    assert!(processes_of(&dir).len() >= 3, "servers run in {}", dir.display());
    lab.kill().expect("it runs");
    lab.wait().expect("it ends");
    assert_gone(&dir);
    assert_eq!(shared_memory().difference(&segments).next(), None, "shared memory is left behind");
}

#[test]
fn nothing_survives_a_lab_that_is_interrupted() {
    let _machine = alone();
    let segments = shared_memory();
    let (mut lab, dir) = start_and_wait();
    let pid = rustix::process::Pid::from_child(&lab);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
    let status = lab.wait().expect("it ends");
    assert_eq!(status.code(), Some(130), "as a shell expects of Ctrl-C");
    assert_gone(&dir);
    assert_eq!(shared_memory().difference(&segments).next(), None, "shared memory is left behind");
}

#[test]
fn behind_the_proxy_clients_wait_for_a_failover_inside_the_region_and_see_no_error_of_a_planned_one() {
    let _machine = alone();
    let output = output(start(&["in-region", "--clients", "4", "--json"]));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let seen: Vec<Value> = serde_json::from_slice(&output.stdout).expect("JSON");
    let case = |cause: &str, through: &str| {
        seen.iter().find(|seen| seen["cause"] == cause && seen["through"] == through).expect("four cases")
    };
    assert!(seen.iter().all(|seen| seen["lost_writes"] == 0), "{seen:#?}");
    assert_eq!(case("planned", "proxy")["errors"], 0, "{seen:#?}");
    assert_eq!(case("planned", "proxy")["reconnects"], 0, "{seen:#?}");
    assert!(case("planned", "cluster")["errors"].as_u64() > Some(0), "without a proxy they notice: {seen:#?}");
    let of_a_crash = case("crash", "proxy");
    assert!(of_a_crash["errors"].as_u64() <= Some(4), "at most the statement under way: {of_a_crash:#?}");
    assert_eq!(of_a_crash["reconnects"], 0, "{of_a_crash:#?}");
}

#[test]
fn what_was_done_is_written_as_a_trace_and_a_replay_of_it_takes_the_same_path() {
    let _machine = alone();
    let file = tempfile::Builder::new().suffix(".toml").tempfile().expect("a file");
    let path = file.path().to_str().expect("text");
    let first = drill(&["drill", "region-loss", "--json", "--trace", path, "--clients", "3", "--reads", "40"]);
    let trace = fs::read_to_string(path).expect("the trace");
    assert!(trace.contains("fault = \"lose-region us-east-2\"") && trace.contains("at = \""), "{trace}");
    let output = output(start(&["replay", path, "--json"]));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let again: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!((&first["path"], &first["clients"]), (&again["path"], &again["clients"]));
    assert!(again["reads"].as_u64() > Some(0), "{again:#}");
}

#[test]
fn a_running_lab_takes_orders_from_another_terminal() {
    let _machine = alone();
    let (mut lab, dir) = start_and_wait();
    let tell = |arguments: &[&str]| {
        let dir = dir.to_str().expect("text");
        let output = output(start(&[arguments, &["--lab", dir]].concat()));
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).expect("text"))
    };
    assert!(tell(&["status"]).1.contains("broken    nothing"));
    let (done, said) = tell(&["fault", "sink", "a1"]);
    assert!(!done && said.contains("breaks nothing") && said.contains("lose-region"), "{said}");
    assert!(tell(&["fault", "lose-region", "us-east-2"]).0);
    until(RECOVERED_WITHIN, || containing(tell(&["status"]).1, "primary   us-west-2"));
    assert!(tell(&["status"]).1.contains("broken    lose-region us-east-2"));
    assert!(tell(&["heal", "lose-region", "us-east-2"]).0);
    lab.kill().expect("it runs");
    lab.wait().expect("it ends");
    assert_gone(&dir);
}

/// The lab's socket, once it is there.
fn connected(socket: &std::path::Path) -> UnixStream {
    until(UP_WITHIN, || UnixStream::connect(socket).map_err(|error| format!("the lab does not listen: {error}")))
}

/// What the lab answers to a line at its socket.
fn order(dir: &std::path::Path, line: &str) -> String {
    let mut socket = connected(&dir.join("control.sock"));
    writeln!(socket, "{line}").expect("it reads");
    let mut said = String::new();
    socket.read_to_string(&mut said).expect("it answers");
    said
}

#[test]
fn what_is_done_in_a_running_lab_is_shown_undone_and_traced() {
    let _machine = alone();
    let file = tempfile::Builder::new().suffix(".toml").tempfile().expect("a file");
    let path = file.path().to_str().expect("text");
    let (mut lab, dir, _) = start_up(&["up", "--trace", path]);
    assert!(order(&dir, "fault crash reader").contains("is lost"));
    let status = order(&dir, "status");
    assert!(status.contains("broken    crash reader"), "{status}");
    assert_eq!(order(&dir, "heal all"), "healed: a2 runs again");
    let status = order(&dir, "status");
    assert!(status.contains("broken    nothing"), "{status}");
    assert_eq!(order(&dir, "heal all"), "healed: nothing was broken");
    // A writer is replaced, and rebuilt, by RDS.
    order(&dir, "fault crash writer");
    until(RECOVERED_WITHIN, || containing(order(&dir, "status"), "broken    nothing"));
    let hung = order(&dir, "fault hang reader");
    assert!(!hung.starts_with("error"), "{hung}");
    assert_eq!(order(&dir, "heal hang reader"), "healed: the reader goes on");
    assert!(order(&dir, "traffic 2 20ms").contains("2 clients"));
    let ordered = order(&dir, "failover-in-region");
    assert!(!ordered.starts_with("error"), "{ordered}");
    let wanted = [
        "fault = \"crash a2\"",
        "heal = \"crash a2\"",
        "fault = \"crash a1\"",
        "heal = \"hang a1\"",
        "traffic = \"2 20ms\"",
        "command = \"failover-in-region\"",
    ];
    until(GONE_WITHIN, || {
        let trace = fs::read_to_string(path).expect("the trace");
        let missing: Vec<&&str> = wanted.iter().filter(|text| !trace.contains(**text)).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?} is not in\n{trace}")) }
    });
    lab.kill().expect("it runs");
    lab.wait().expect("it ends");
    assert_gone(&dir);
}

#[test]
fn a_controller_without_its_queue_waits_says_so_and_begins_when_it_answers() {
    let _machine = alone();
    let (mut lab, dir, environment) = start_with_environment();
    assert!(order(&dir, "fault aws sqs.GetQueueUrl=server-error:100").contains("done"));
    let port = TcpListener::bind("127.0.0.1:0").expect("a port is free").local_addr().expect("bound").port();
    let address = format!("127.0.0.1:{port}");
    let mut serve = Command::new(BINARY);
    serve.args(["serve", "--log-json", "--listen", &address]).envs(environment).stderr(Stdio::null());
    let second = Running(serve.spawn().expect("it starts"));
    let becomes = |wanted: &str| {
        until(RECOVERED_WITHIN, || containing(ask(&address, "/readyz").unwrap_or_default(), wanted));
    };
    becomes("not ready: queue");
    assert!(order(&dir, "heal aws sqs.GetQueueUrl=server-error:100").contains("healed"));
    becomes("ready: waiting for the lease");
    drop(second);
    lab.kill().expect("it runs");
    lab.wait().expect("it ends");
    assert_gone(&dir);
}

/// The environment, with the access key of a role of the lab.
fn as_role(environment: &[(String, String)], role: &str) -> Vec<(String, String)> {
    let key = ("AWS_ACCESS_KEY_ID".to_owned(), role.to_owned());
    environment.iter().filter(|(name, _)| *name != key.0).cloned().chain([key.clone()]).collect()
}

/// The text, if this is in it.
fn containing(text: String, wanted: &str) -> Result<(), String> {
    if text.contains(wanted) { Ok(()) } else { Err(format!("no {wanted:?} in {text}")) }
}

fn wait_for_closed_episodes(environment: &[(String, String)], count: usize) -> Value {
    until(CLOSED_WITHIN, || {
        let episodes = json(environment, &["episodes"]);
        let all = episodes.as_array().expect("a list");
        let closed = all.iter().filter(|episode| episode["outcome"] == "completed").count();
        if closed >= count { Ok(episodes) } else { Err(format!("{episodes:#}")) }
    })
}

#[test]
fn operators_and_auditors_get_every_answer_of_a_real_failover() {
    let _machine = alone();
    let (mut lab, dir, administrator) = start_with_environment();
    // Each command has only what its role may do.
    let environment = as_role(&administrator, "operator");
    let run = |arguments: &[&str]| product(&environment, arguments);
    let good = |arguments: &[&str]| {
        let (code, said) = run(arguments);
        assert_eq!(code, 0, "{arguments:?}: {said}");
        said
    };
    let file = |name: &str| dir.join(name).to_str().expect("text").to_owned();

    // Before anything happens.
    let roles = ["canary", "controller", "operator", "break-glass", "auditor", "deployer"];
    let simulate = roles.map(|role| format!("--simulate={role}=arn:aws:iam::000000000000:role/{role}"));
    let doctor = good(&[&["doctor"], &simulate.each_ref().map(String::as_str)[..]].concat());
    assert!(doctor.contains("0 errors") && doctor.contains("permissions of the controller"), "{doctor}");
    assert!(doctor.contains("rds.global_db_rpo is off"), "{doctor}");
    let (code, less) = run(&["doctor", "--simulate=controller=arn:aws:iam::000000000000:role/auditor"]);
    assert!(code == 1 && less.contains("rds:FailoverGlobalCluster on arn:aws:rds::"), "{less}");
    let auditor = as_role(&administrator, "auditor");
    let (code, seen) = product(&auditor, &["status"]);
    assert!(code == 0 && seen.contains("healthy"), "{seen}");
    let (code, denied) = product(&auditor, &["override", "orders", "resume", "--reason", "not mine", "--yes"]);
    assert!(code != 0 && denied.contains("is not authorized to perform: events:PutEvents"), "{denied}");
    let plan = good(&["plan", "orders"]);
    assert!(
        plan.contains("it would then make us-west-2 the writer") && plan.contains("guard approved passes"),
        "{plan}"
    );
    let planned = checked(&environment, "output-plan", &["plan", "orders"]);
    assert_eq!(planned["goes-through"], true, "{planned:#}");
    let found = checked(&environment, "output-doctor", &["doctor"]);
    assert!(found.as_array().is_some_and(|all| all.iter().all(|one| one["severity"] != "error")), "{found:#}");
    let dry = good(&["override", "orders", "switchover", "--reason", "test", "--dry-run"]);
    assert!(
        dry.contains("RDS in us-west-2")
            && dry.contains("DNS: db.orders.example.com.")
            && dry.contains("Nothing was sent"),
        "{dry}"
    );
    let (code, refused) = run(&["override", "orders", "abort", "--reason", "test", "--yes"]);
    assert!(code == 1 && refused.contains("nothing to abort"), "{code} {refused}");
    assert!(good(&["status"]).contains("website us-east-2: ok"));
    assert!(good(&["status", "--output", "yaml"]).contains("cluster: orders"));

    // A region dies and returns.
    let lab_order = |order: &[&str]| {
        let output = output(start(&[order, &["--lab", dir.to_str().expect("text")]].concat()));
        assert!(output.status.success(), "{order:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    lab_order(&["fault", "lose-region", "us-east-2"]);
    until_stable(&environment, RECOVERED_WITHIN);
    lab_order(&["heal", "lose-region", "us-east-2"]);
    let episodes = wait_for_closed_episodes(&environment, 1);
    // On a busy machine there may be an averted suspicion before.
    let completed = episodes.as_array().and_then(|all| all.iter().find(|one| one["outcome"] == "completed"));
    let id = completed.expect("one")["id"].as_str().expect("an id");

    // What came of it.
    let page = file("episode.html");
    let report = json(&environment, &["episode", id, "--html", &page]);
    assert_eq!(report["outcome"], "completed");
    assert_eq!((&report["primary-before"], &report["primary-after"]), (&"us-east-2".into(), &"us-west-2".into()));
    assert!(report["rto-ms"].as_u64().is_some_and(|ms| ms > 300) && report["rpo-bound-ms"].is_u64(), "{report:#}");
    let phases: Vec<&str> =
        report["phases"].as_array().expect("a list").iter().filter_map(|p| p["name"].as_str()).collect();
    assert_eq!(phases, ["detect", "decide", "promote", "reroute", "verify", "settle"]);
    assert!(report["probes"].as_array().is_some_and(|probes| probes.len() >= 6), "{report:#}");
    let page = fs::read_to_string(page).expect("the page");
    assert!(
        page.contains("<svg") && page.contains("What the vantages saw") && !page.contains("http"),
        "it needs nothing else"
    );
    assert!(good(&["episode", "last"]).contains("Where the time went"));
    assert!(good(&["episode", "last", "--output", "markdown"]).contains("| outcome | completed |"));
    let why = good(&["explain", "orders"]);
    assert!(
        why.contains("How it came to this") && why.contains("because a write through the public names committed"),
        "{why}"
    );
    let confirmed = json(&environment, &["history", "--rule", "quorum-confirmed"]);
    let version = confirmed[0]["version"].to_string();
    let turn = good(&["explain", "orders", "--version", &version]);
    assert!(
        turn.contains("So it went from suspect to confirmed-down") && turn.contains("guard still-down passes"),
        "{turn}"
    );
    let then = good(&["explain", "orders", "--at", &at(&confirmed[0])]);
    assert!(then.contains("orders is confirmed-down since"), "{then}");

    // Found by whatever is known of it.
    let count = |arguments: &[&str]| {
        json(&environment, &[&["history", "--limit", "1000"], arguments].concat()).as_array().map_or(0, Vec::len)
    };
    let all = count(&[]);
    assert_eq!(count(&["--since", "1h"]), all);
    assert_eq!(count(&["--until", "1h"]), 0);
    assert_eq!(count(&["--outcome", "completed"]), 1);
    assert_eq!(count(&["--state", "promoting", "--event", "result", "--rule", "guards-passed"]), 1);
    assert!(count(&["--episode", id]) > 5 && count(&["--episode", id]) < all);
    assert!(count(&["--actor", "arn:aws:sts::000000000000:assumed-role/operator/lab"]) >= 1);
    let (code, none) = run(&["history", "--state", "asleep"]);
    assert!(code == 2 && none.contains("confirmed-down"), "{none}");
    let (code, none) = run(&["history", "--outcome", "failed"]);
    assert!(code == 0 && none.contains("No turn is like that"), "{none}");

    // Whole, and taken elsewhere.
    let verified = json(&environment, &["audit", "verify"]);
    assert!(verified["flaws"].as_array().is_some_and(Vec::is_empty), "{verified}");
    let rows = verified["rows"].as_u64().expect("a number") as usize;
    let anchor = verified["newest"].as_str().expect("the newest").to_owned();
    let (lines, table, columns) = (file("all.jsonl"), file("all.csv"), file("all.parquet"));
    good(&["audit", "export", "--to", &lines]);
    good(&["audit", "export", "--format", "csv", "--to", &table]);
    good(&["audit", "export", "--format", "parquet", "--to", &columns]);
    assert!(fs::read_to_string(lines).expect("written").lines().count() >= rows);
    assert!(fs::read_to_string(table).expect("written").starts_with("cluster,version,at,"));
    let columns = fs::read(columns).expect("written");
    assert!(columns.starts_with(b"PAR1") && columns.ends_with(b"PAR1"));

    // The same again, and by another policy.
    assert!(good(&["replay"]).contains("byte for byte"));
    assert!(good(&["replay", id]).contains("byte for byte"));
    let own = fs::read_to_string(dir.join("aurora-failover.toml")).expect("the lab's configuration");
    let other = |name: &str, policy: &str| {
        fs::write(dir.join(name), format!("{own}{policy}\n")).expect("written");
        json(&environment, &["replay", id, "--policy", &file(name)])[0].clone()
    };
    let slow = other("slow.toml", "confirm-after = \"5m\"");
    assert_eq!(
        (&slow["recorded"]["verdict"], &slow["other"]["verdict"]),
        (&"confirmed".into(), &"undecided".into()),
        "{slow:#}"
    );
    let hasty = other("hasty.toml", "failures-min = 1\nquorum = 1\nconfirm-after = \"1ms\"");
    let after = |judged: &Value| judged["after-ms"].as_u64().expect("confirmed");
    assert!(after(&hasty["other"]) < after(&hasty["recorded"]), "{hasty:#}");

    // Past the bus, by plan, and back.
    let order = ["override", "orders", "pause", "--for", "1m", "--reason", "the bus is down", "--yes", "--direct"];
    let (code, denied) = run(&order);
    assert!(code != 0 && denied.contains("is not authorized to perform: dynamodb:PutItem"), "{denied}");
    let (code, direct) = product(&as_role(&administrator, "break-glass"), &order);
    assert_eq!(code, 0, "{direct}");
    assert!(direct.contains("straight into the table"), "{direct}");
    let ordered = good(&["history", "--event", "command", "--limit", "1"]);
    assert!(
        ordered.contains("role/break-glass/lab") && ordered.contains("straight into the table (direct)"),
        "{ordered}"
    );
    let resume = ["override", "orders", "resume", "--reason", "it is back", "--yes", "--on-behalf-of", "alice"];
    assert_eq!(checked(&environment, "output-override", &resume)["ended"], "done");
    assert_eq!(checked(&environment, "output-override", &resume)["ended"], "refused");
    let drilled = good(&["drill", "orders", "--switchover", "--reason", "game day", "--yes"]);
    assert!(
        drilled.contains("kind                         switchover")
            && drilled.contains("outcome                      completed"),
        "{drilled}"
    );

    // Whoever touches a row is found.
    let flaws_after = |tamper: &dyn Fn()| {
        tamper();
        let (code, said) = run(&["audit", "verify", "--anchor", &anchor]);
        assert_eq!(code, 1, "{said}");
        said
    };
    let table = Table::of(&administrator);
    let third = table.get(3);
    let changed = flaws_after(&|| table.put(3, &third.replace("\"actor\":\"", "\"actor\":\"not ")));
    assert!(changed.contains("row 3 was changed"), "{changed}");
    let missing = flaws_after(&|| table.delete(3));
    assert!(missing.contains("row 4 does not follow the row before it"), "{missing}");
    let fourth = table.get(4);
    let reordered = flaws_after(&|| {
        table.put(3, &fourth);
        table.put(4, &third);
    });
    assert!(reordered.contains("does not follow the row before it"), "{reordered}");
    lab.kill().expect("it runs");
    lab.wait().expect("it ends");
    assert_gone(&dir);
}

/// The `sh` blocks of a chapter of the README, as one script.
fn chapter(title: &str) -> String {
    let readme = include_str!("../README.md");
    let chapter = readme.split("\n## ").find(|chapter| chapter.starts_with(title)).expect("the chapter");
    let blocks = chapter.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap_or_default());
    blocks.collect()
}

/// The chapters for operators and auditors, line by line, as somebody at a terminal would follow them.
#[test]
fn the_chapters_for_operators_and_auditors_can_be_followed_literally() {
    let _machine = alone();
    let (mut lab, dir, environment) = start_with_environment();
    let work = tempfile::tempdir().expect("a directory");
    // A terminal for what needs one, and somebody who leaves it.
    let watch = "printf q | script --quiet --return --command 'aurora-failover status --watch' /dev/null";
    let script = [chapter("Operate it"), chapter("Audit it")].concat().replace("aurora-failover status --watch", watch);
    assert!(script.lines().count() >= 20 && script.contains(watch), "{script}");
    let built = PathBuf::from(BINARY);
    let target = built.parent().and_then(|profile| profile.parent()).expect("target/debug/aurora-failover");
    let mut shell = Command::new("bash");
    shell.args(["-e", "-u", "-o", "pipefail", "-x", "-c", &script]).current_dir(work.path());
    shell.envs(environment).env("CARGO_TARGET_DIR", target).stdin(Stdio::null());
    let output = shell.output().expect("bash starts");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{}\n{said}", output.status);
    for file in ["game-day.html", "episode.html", "history.parquet"] {
        assert!(work.path().join(file).metadata().is_ok_and(|file| file.len() > 1000), "{file}\n{said}");
    }
    assert!(said.contains("waiting until what was before has settled"), "{said}");
    lab.kill().expect("it runs");
    lab.wait().expect("it ends");
    assert_gone(&dir);
}

/// The time of a row, as the command line takes it.
fn at(row: &Value) -> String {
    let ms = i64::try_from(row["at"].as_u64().expect("a time")).expect("in range");
    jiff::Timestamp::from_millisecond(ms).expect("in range").to_string()
}

/// The lab's table, past the product.
struct Table {
    runtime: tokio::runtime::Runtime,
    client: aws_sdk_dynamodb::Client,
}

impl Table {
    fn of(environment: &[(String, String)]) -> Self {
        let value = |name: &str| environment.iter().find(|(known, _)| known == name).expect("exported").1.clone();
        let config = aws_sdk_dynamodb::Config::builder()
            .behavior_version(aws_sdk_dynamodb::config::BehaviorVersion::latest())
            .region(aws_sdk_dynamodb::config::Region::new("us-west-2"))
            .endpoint_url(value("AWS_ENDPOINT_URL"))
            .credentials_provider(aws_sdk_dynamodb::config::Credentials::new("lab", "lab", None, None, "test"))
            .build();
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        Self { runtime, client: aws_sdk_dynamodb::Client::from_conf(config) }
    }

    fn key(version: u64) -> [(String, AttributeValue); 2] {
        let text = |text: String| AttributeValue::S(text);
        [("PK".into(), text("CLUSTER#orders".into())), ("SK".into(), text(format!("HIST#{version:020}")))]
    }

    fn get(&self, version: u64) -> String {
        let asked =
            self.client.get_item().table_name("aurora-failover").set_key(Some(Self::key(version).into())).send();
        let found = self.runtime.block_on(asked).expect("DynamoDB answers").item.expect("it is there");
        found["row"].as_s().expect("text").clone()
    }

    fn put(&self, version: u64, row: &str) {
        let item = Self::key(version).into_iter().chain([("row".into(), AttributeValue::S(row.into()))]).collect();
        let put = self.client.put_item().table_name("aurora-failover").set_item(Some(item)).send();
        self.runtime.block_on(put).expect("DynamoDB takes it");
    }

    fn delete(&self, version: u64) {
        let delete = self.client.delete_item().table_name("aurora-failover").set_key(Some(Self::key(version).into()));
        self.runtime.block_on(delete.send()).expect("DynamoDB takes it");
    }
}

/// Where the browser is; Debian's package has the first name.
#[cfg(feature = "dashboard")]
fn browser() -> PathBuf {
    let named = std::env::var_os("CHROMIUM").map(PathBuf::from);
    let usual = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].map(PathBuf::from);
    named
        .into_iter()
        .chain(usual)
        .find(|path| path.exists())
        .expect("a browser: run scripts/setup test, or set CHROMIUM")
}

#[test]
#[cfg(feature = "dashboard")]
fn both_demonstrations_orders_and_a_killed_controller_in_a_real_browser() {
    let _machine = alone();
    let tools = std::env::var_os("AURORA_FAILOVER_TOOLS")
        .expect("run the tests by scripts/test, which installs what they need");
    let (_lab, _, environment) = start_with_environment();
    let (_, url) = environment.iter().find(|(name, _)| name == "DASHBOARD").expect("the lab names its dashboard");
    let pictures = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("dashboard");
    fs::create_dir_all(&pictures).expect("a directory for pictures");
    let mut node = Command::new("node");
    node.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/dashboard/drive.mjs")).arg(url).arg(&pictures);
    let output = node.env("AURORA_FAILOVER_TOOLS", tools).env("CHROMIUM", browser()).output().expect("node starts");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "pictures are in {}:\n{said}", pictures.display());
    println!("{said}");
}

#[test]
fn nothing_of_a_lab_listens_beyond_loopback() {
    let _machine = alone();
    let before = listeners();
    let (mut lab, dir) = start_and_wait();
    // Sockets of single DNS questions come and go; what stays is a listener.
    let mut staying = listeners();
    for _ in 0..4 {
        std::thread::park_timeout(Duration::from_millis(400));
        staying = staying.intersection(&listeners()).cloned().collect();
    }
    let opened: Vec<String> = staying.difference(&before).cloned().collect();
    assert!(opened.len() >= 8, "databases, links, DNS and AWS listen: {opened:?}");
    let beyond: Vec<&String> = opened.iter().filter(|address| !is_loopback(address)).collect();
    assert!(beyond.is_empty(), "{beyond:?}");
    lab.kill().expect("it runs");
    lab.wait().expect("it ends");
    assert_gone(&dir);
}

#[test]
fn an_operator_pauses_orders_and_is_answered() {
    let _machine = alone();
    let (mut lab, dir, environment) = start_with_environment();
    let order = |arguments: &[&str]| {
        let mut command = Command::new(BINARY);
        command.args(["override", "orders"]).args(arguments).args([
            "--reason",
            "test",
            "--on-behalf-of",
            "alice",
            "--yes",
        ]);
        let output = command.envs(environment.clone()).output().expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, said) = order(&["pause", "--for", "10m"]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = order(&["failover"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("on behalf of alice") && said.contains("resume first"), "{said}");
    let (code, said) = order(&["resume"]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = order(&["approve"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("nothing waits for an approval"), "{said}");
    let (code, said) = order(&["failover"]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(until_stable(&environment, GONE_WITHIN)["primary"], "us-west-2");
    lab.kill().expect("it runs");
    lab.wait().expect("it ends");
    assert_gone(&dir);
}

#[test]
fn a_second_controller_waits_and_says_how_it_is() {
    let _machine = alone();
    let (mut lab, dir, environment) = start_with_environment();
    let port = TcpListener::bind("127.0.0.1:0").expect("a port is free").local_addr().expect("bound").port();
    let address = format!("127.0.0.1:{port}");
    let mut serve = Command::new(BINARY);
    serve.args(["serve", "--log-json", "--listen", &address]).envs(environment.clone()).stderr(Stdio::null());
    let mut second = Running(serve.spawn().expect("it starts"));
    until(GONE_WITHIN, || containing(ask(&address, "/readyz").unwrap_or_default(), "ready: waiting for the lease"));
    assert!(ask(&address, "/healthz").is_some_and(|answer| answer.contains("alive")));
    let metrics = ask(&address, "/metrics").expect("it answers");
    assert!(metrics.contains("aurora_failover_listening 0"), "{metrics}");

    let mut dlq = Command::new(BINARY);
    let listed = dlq.args(["dlq", "list"]).envs(environment).output().expect("it runs");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains("is empty"), "{listed}");

    let asked = Instant::now();
    let pid = rustix::process::Pid::from_child(&second);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
    assert!(second.wait().expect("it ends").success());
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    lab.kill().expect("it runs");
    lab.wait().expect("it ends");
    assert_gone(&dir);
}

/// One HTTP request; none while nobody answers.
fn ask(address: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// System V segments by their ids, and PostgreSQL's POSIX ones by their names.
fn shared_memory() -> BTreeSet<String> {
    let system_v = fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
    let system_v = system_v.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1).map(ToOwned::to_owned));
    let posix = fs::read_dir("/dev/shm").into_iter().flatten().flatten();
    let posix = posix.map(|entry| entry.file_name().to_string_lossy().into_owned());
    system_v.chain(posix.filter(|name| name.starts_with("PostgreSQL."))).collect()
}

/// Starts a lab and waits until it says that it is up; gives its directory too.
fn start_and_wait() -> (Running, PathBuf) {
    let (lab, dir, _) = start_with_environment();
    (lab, dir)
}

/// Processes that have the directory in their command line or environment.
fn processes_of(dir: &std::path::Path) -> Vec<String> {
    let needle = dir.to_string_lossy().into_owned();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("Linux").flatten() {
        let about = |name: &str| fs::read(entry.path().join(name)).unwrap_or_default();
        let text = [about("cmdline"), about("environ")].concat();
        let is_process = entry.file_name().to_string_lossy().parse::<u32>().is_ok();
        if is_process && String::from_utf8_lossy(&text).contains(&needle) {
            found.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    found
}

fn assert_gone(dir: &std::path::Path) {
    until(GONE_WITHIN, || {
        let left = processes_of(dir);
        let gone = left.is_empty() && !dir.exists();
        if gone { Ok(()) } else { Err(format!("left: {left:?}, {} exists: {}", dir.display(), dir.exists())) }
    });
}

/// Local addresses of listening sockets, as /proc shows them.
fn listeners() -> BTreeSet<String> {
    const LISTEN: &str = "0A";
    let mut found = BTreeSet::new();
    for (table, any_state) in [("tcp", false), ("tcp6", false), ("udp", true), ("udp6", true)] {
        let text = fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            // An unconnected UDP socket has no peer port.
            if any_state && fields[2].ends_with(":0000") || fields[3] == LISTEN {
                found.insert(fields[1].to_owned());
            }
        }
    }
    found
}

/// 127.x.y.z in the kernel's byte order, or ::1.
fn is_loopback(address: &str) -> bool {
    let (ip, _) = address.split_once(':').expect("address and port");
    ip.len() == 8 && ip.ends_with("7F") || ip == "00000000000000000000000001000000"
}
