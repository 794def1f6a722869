//! A running lab takes orders: from its own terminal, and from others through a socket in its directory.
//!
//! ```text
//! fault lose-region us-east-2      breaks something; see `lab drill --help` for what there is
//! heal lose-region us-east-2       undoes it
//! heal all                         undoes everything
//! traffic 8 20ms proxy             so many clients, a statement each so often, through name, cluster or proxy
//! traffic stop                     silence
//! scenario region-loss              its steps, one after the other, in this lab
//! switchover, failover-in-region   orders to the product, as an operator gives them
//! restart-controller               SIGKILL, and a new start after three seconds
//! status                           who is the writer, what the record says, what is broken
//! ```
//!
//! What is broken, healed and ordered here can be written into a trace, which `lab replay` does again. What an operator
//! orders with the program itself, in another terminal, is not in it.

use crate::scenario::{self, Act, Breakage, Condition, Expect, Scenario, Server, StageSection, Step};
use crate::stage::{CLUSTER, PRIMARY, SECONDARY, Stage, StageOptions, Traffic};
use crate::{demo, drill, reaper};
use anyhow::{Context as _, Result, bail, ensure};
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

/// Name of the socket in a lab's directory.
const SOCKET: &str = "control.sock";

/// Pause between two looks at a step of a scenario.
const STEP_EVERY: Duration = Duration::from_millis(200);

/// Pause between two writings of a trace.
const TRACE_EVERY: Duration = Duration::from_secs(1);

/// How long a controller that is restarted is away.
const CONTROLLER_AWAY: Duration = Duration::from_secs(3);

/// Longest line that is read.
const LINE_BYTES_MAX: u64 = 1_000;

/// One line, and where its answer goes.
pub(crate) type Request = (String, oneshot::Sender<String>);

/// Orders on their way to the lab, from wherever they are given.
pub struct Orders {
    pub(crate) requests: mpsc::Sender<Request>,
    incoming: mpsc::Receiver<Request>,
}

impl Default for Orders {
    fn default() -> Self {
        let (requests, incoming) = mpsc::channel(8);
        Self { requests, incoming }
    }
}

/// Carries orders out until the process is stopped.
///
/// # Errors
/// When the socket cannot be made, or a process of the service ends.
pub async fn obey(mut stage: Stage, mut trace: Option<Trace>, orders: Orders) -> Result<()> {
    let Orders { requests, mut incoming } = orders;
    let path = stage.path().join(SOCKET);
    let listener = UnixListener::bind(&path).with_context(|| format!("listening on {}", path.display()))?;
    tokio::spawn(listen(listener, requests.clone()));
    if std::io::stdin().is_terminal() {
        tokio::spawn(prompt(requests));
    }
    let mut desk = Desk::default();
    let mut play = Play::default();
    loop {
        let pause = if play.steps.is_empty() { TRACE_EVERY } else { STEP_EVERY };
        let Ok(next) = tokio::time::timeout(pause, incoming.recv()).await else {
            play.go_on(&mut stage, &mut desk).await;
            let done = std::mem::take(&mut desk.done);
            if let Some(trace) = &mut trace {
                trace.note(done);
                // The store may be out of reach: it is a lab to break things in.
                if let Err(error) = trace.write(&stage).await {
                    tracing::debug!(error = format!("{error:#}"), "the trace is not current");
                }
            }
            continue;
        };
        let Some((line, answer)) = next else { return Ok(()) };
        let said = carry_out(&mut stage, &mut desk, &mut play, line.trim()).await;
        // Whoever asked may be gone.
        let _nobody_waits = answer.send(said.unwrap_or_else(|error| format!("error: {error:#}")));
    }
}

/// What was done by orders: what is broken by them, and the steps that the trace has yet to note.
#[derive(Default)]
struct Desk {
    broken: Vec<Broken>,
    done: Vec<(Instant, Step)>,
}

/// Something that is broken.
struct Broken {
    /// As it was ordered, such as `crash writer`.
    ordered: String,
    /// With the server that had the role then.
    breakage: Breakage,
}

impl Desk {
    fn note(&mut self, at: Instant, step: Step) {
        self.done.push((at, step));
    }

    async fn break_it(&mut self, stage: &mut Stage, ordered: &Breakage) -> Result<()> {
        let (at, breakage) = (Instant::now(), ordered.named(stage));
        breakage.make(stage, rand::random()).await?;
        self.broken.push(Broken { ordered: ordered.clone().into(), breakage: breakage.clone() });
        self.note(at, Step { fault: Some(breakage), ..Step::default() });
        Ok(())
    }

    /// Heals what was broken by this order, or what the order means now.
    async fn heal(&mut self, stage: &mut Stage, ordered: &Breakage) -> Result<()> {
        let text = String::from(ordered.clone());
        let is_it = |broken: &Broken| broken.ordered == text || String::from(broken.breakage.clone()) == text;
        let found: Vec<Breakage> =
            self.broken.iter().filter(|broken| is_it(broken)).map(|broken| broken.breakage.clone()).collect();
        for breakage in if found.is_empty() { vec![ordered.clone()] } else { found } {
            let at = Instant::now();
            breakage.undo(stage).await?;
            self.note(at, Step { heal: Some(breakage), ..Step::default() });
        }
        self.broken.retain(|broken| !is_it(broken));
        Ok(())
    }

    /// Heals everything; answers what that was.
    async fn heal_all(&mut self, stage: &mut Stage) -> Result<Vec<String>> {
        self.forget_replaced(stage).await;
        // A server comes back only into a region that is there.
        self.broken.sort_by_key(|broken| matches!(broken.breakage, Breakage::Crash(_)));
        let mut healed = Vec::new();
        while let Some(broken) = self.broken.first() {
            let (breakage, at) = (broken.breakage.clone(), Instant::now());
            breakage.undo(stage).await?;
            healed.push(breakage.healed());
            self.broken.remove(0);
            self.note(at, Step { heal: Some(breakage), ..Step::default() });
        }
        Ok(healed)
    }

    /// A server that crashed may run again without having been healed: RDS replaces a writer, and rebuilds what it was.
    async fn forget_replaced(&mut self, stage: &Stage) {
        let mut running = Vec::new();
        for broken in &self.broken {
            if let Breakage::Crash(Server::Named(name)) = &broken.breakage
                && stage.topology.is_running(name).await
            {
                running.push(name.clone());
            }
        }
        self.broken.retain(|broken| match &broken.breakage {
            Breakage::Crash(Server::Named(name)) => !running.contains(name),
            _ => true,
        });
    }

    /// What is broken now, as it was ordered.
    async fn broken(&mut self, stage: &Stage) -> Vec<String> {
        self.forget_replaced(stage).await;
        self.broken.iter().map(|broken| broken.ordered.clone()).collect()
    }
}

/// Orders with their times, as a scenario that expects what came of them. Written again and again: the lab may be
/// stopped at any moment.
pub struct Trace {
    path: PathBuf,
    began: Instant,
    since: SystemTime,
    scenario: Scenario,
}

impl Trace {
    /// Begins now.
    #[must_use]
    pub fn new(path: PathBuf, options: &StageOptions) -> Self {
        let stage = StageSection {
            profile: Some(options.profile),
            clients: Some(options.clients),
            reads_percent: Some(options.reads_percent),
            timing: options.timing,
            ..StageSection::default()
        };
        let about = "What was done by hand in a lab.".into();
        // What was lost by hand is not the question.
        let expect = Expect { lost_writes_max: u64::from(u32::MAX), ..Expect::default() };
        let scenario = Scenario { name: String::new(), about, long: false, stage, step: Vec::new(), expect };
        Self { path, began: Instant::now(), since: SystemTime::now(), scenario }
    }

    /// Adds what was done.
    fn note(&mut self, done: Vec<(Instant, Step)>) {
        for (at, step) in done {
            let at = Some(Duration::from_millis(at.duration_since(self.began).as_millis() as u64));
            self.scenario.step.push(Step { at, ..step });
        }
    }

    /// Writes it, with what has come of it so far.
    async fn write(&mut self, stage: &Stage) -> Result<()> {
        let rows = drill::rows_since(stage, self.since).await?;
        let mut scenario = self.scenario.clone();
        let path = drill::path(&rows);
        let wait = Condition { state: path.last().cloned(), ..Condition::default() };
        scenario.step.push(Step { wait: Some(wait), ..Step::default() });
        scenario.expect = Expect { path: Some(path), ..drill::accepted_calls(stage, self.scenario.expect.clone()) };
        let text = toml::to_string(&scenario).context("writing the trace")?;
        std::fs::write(&self.path, text).with_context(|| format!("writing {}", self.path.display()))
    }
}

/// A scenario that is carried out in this lab, a step at a time, so that orders are taken meanwhile.
#[derive(Default)]
struct Play {
    name: String,
    steps: VecDeque<Step>,
    began: Option<(Instant, SystemTime)>,
    /// Since when the step at the head is waited for or watched.
    since: Option<Instant>,
    /// How it is, for people.
    said: String,
}

impl Play {
    fn begin(scenario: Scenario) -> Self {
        let said = format!("{}: begins", scenario.name);
        let began = Some((Instant::now(), SystemTime::now()));
        Self { name: scenario.name, steps: scenario.step.into(), began, since: None, said }
    }

    /// Does what is due; a step that fails ends it.
    async fn go_on(&mut self, stage: &mut Stage, desk: &mut Desk) {
        let Some(step) = self.steps.front().cloned() else { return };
        match self.step(stage, desk, &step).await {
            Ok(false) => {}
            Ok(true) => {
                self.steps.pop_front();
                self.since = None;
                if self.steps.is_empty() {
                    self.said = format!("{}: done", self.name);
                }
            }
            Err(error) => {
                self.said = format!("{}: {error:#}", self.name);
                self.steps.clear();
                self.since = None;
            }
        }
    }

    /// Is the step done?
    async fn step(&mut self, stage: &mut Stage, desk: &mut Desk, step: &Step) -> Result<bool> {
        let (began, began_at) = self.began.context("it has begun")?;
        if step.at.is_some_and(|at| began.elapsed() < at) {
            return Ok(false);
        }
        let act = step.act()?;
        self.said = format!("{}: {act}", self.name);
        let since = *self.since.get_or_insert_with(Instant::now);
        let unix = began_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        match act {
            Act::Fault(breakage) => desk.break_it(stage, breakage).await.map(|()| true),
            Act::Heal(breakage) => desk.heal(stage, breakage).await.map(|()| true),
            Act::Wait(condition, within) => match condition.missing(stage, unix).await? {
                None => Ok(true),
                Some(missing) if since.elapsed() > within => bail!("not within {within:?}: {missing}"),
                Some(_) => Ok(false),
            },
            Act::Watch(condition, during) => {
                ensure!(condition.missing(stage, unix).await?.is_some(), "it became {condition}");
                Ok(since.elapsed() >= during)
            }
            Act::Traffic(line) => {
                stage.set_traffic(stage.traffic().after(line)?)?;
                desk.note(Instant::now(), Step { at: None, ..step.clone() });
                Ok(true)
            }
            Act::Rds(order) => {
                stage.aws.order(order)?;
                desk.note(Instant::now(), Step { at: None, ..step.clone() });
                Ok(true)
            }
            Act::Command(order, refusal) => {
                let at = Instant::now();
                let (code, said) = stage.product(&scenario::order(order)?).await?;
                desk.note(at, Step { at: None, ..step.clone() });
                match refusal {
                    None => ensure!(code == 0, "{}", said.trim()),
                    Some(refusal) => ensure!(said.contains(refusal), "not refused as expected: {}", said.trim()),
                }
                Ok(true)
            }
        }
    }
}

async fn carry_out(stage: &mut Stage, desk: &mut Desk, play: &mut Play, line: &str) -> Result<String> {
    let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
    match verb {
        "fault" => {
            let breakage: Breakage = rest.parse()?;
            desk.break_it(stage, &breakage).await?;
            Ok(format!("done: {breakage}"))
        }
        "heal" if rest == "all" => {
            let healed = desk.heal_all(stage).await?;
            Ok(format!("healed: {}", if healed.is_empty() { "nothing was broken".into() } else { healed.join("; ") }))
        }
        "heal" => {
            let breakage: Breakage = rest.parse()?;
            desk.heal(stage, &breakage).await?;
            Ok(format!("healed: {}", breakage.healed()))
        }
        "traffic" => {
            let (at, traffic) = (Instant::now(), stage.traffic().after(rest)?);
            stage.set_traffic(traffic)?;
            desk.note(at, Step { traffic: Some(rest.into()), ..Step::default() });
            Ok(match traffic.clients {
                0 => "the application is silent".to_owned(),
                clients => format!("{clients} clients, a statement each {} ms", traffic.pace_ms),
            })
        }
        "scenario" => {
            let scenario = scenario::find(rest)?;
            if stage.traffic().clients == 0 {
                stage.set_traffic(Traffic { clients: 1, ..stage.traffic() })?;
            }
            // It is played as it is here: profile, mode and policy of the scenario's own stage are not set.
            *play = Play::begin(scenario);
            Ok(play.said.clone())
        }
        "failover-in-region" | "switchover" => {
            let at = Instant::now();
            let order = ["override", CLUSTER, verb, "--reason", "demonstration", "--yes", "--no-wait"];
            let (code, said) = stage.product(&order.map(str::to_owned)).await?;
            ensure!(code == 0, "{}", said.trim());
            desk.note(at, Step { command: Some(verb.into()), ..Step::default() });
            Ok(said.trim().to_owned())
        }
        "restart-controller" => {
            let (at, killed) = (Instant::now(), || Some(Breakage::KillController(0)));
            stage.kill_controller(0).await?;
            desk.note(at, Step { fault: killed(), ..Step::default() });
            tokio::time::sleep(CONTROLLER_AWAY).await;
            stage.start_controller(0)?;
            desk.note(Instant::now(), Step { heal: killed(), ..Step::default() });
            Ok("the controller was killed, and started again".into())
        }
        demo::STATE => {
            let broken = desk.broken(stage).await;
            Ok(demo::describe(stage, &broken, &play.said).to_string())
        }
        "status" => {
            let broken = desk.broken(stage).await;
            status(stage, &broken).await
        }
        _ => bail!("{line:?} is no order; write fault …, heal …, traffic … or status"),
    }
}

async fn status(stage: &mut Stage, broken: &[String]) -> Result<String> {
    stage.all_alive()?;
    let mut text = String::new();
    match stage.record().await {
        Ok(Some(record)) => {
            let name = |value: &serde_json::Value| value.as_str().unwrap_or("-").to_owned();
            writeln!(text, "state     {}", name(&record["state"]["name"]))?;
            writeln!(text, "primary   {}, epoch {}", name(&record["primary"]), record["epoch"])?;
            if !record["hold"].is_null() {
                let hold = &record["hold"];
                writeln!(text, "holds     {}; to go on: {}", name(&hold["detail"]), name(&hold["release"]))?;
            }
        }
        Ok(None) => writeln!(text, "state     nothing is stored yet")?,
        Err(error) => writeln!(text, "state     unknown: {error:#}")?,
    }
    for region in [PRIMARY, SECONDARY] {
        let writer = stage.topology.writer();
        let role = |id: &str| if id == writer { " (writer)" } else { "" };
        let instances = stage.topology.instances(region);
        let servers: Vec<String> = instances
            .iter()
            .map(|instance| format!("{}{} in {}", instance.id, role(&instance.id), instance.zone))
            .collect();
        writeln!(text, "{region} {}", servers.join(", "))?;
    }
    let account = stage.account();
    writeln!(text, "writes    {} acknowledged, {} attempts failed", account.acknowledged.len(), account.failed.len())?;
    write!(text, "broken    {}", if broken.is_empty() { "nothing".to_owned() } else { broken.join("; ") })?;
    Ok(text)
}

async fn listen(listener: UnixListener, requests: mpsc::Sender<Request>) {
    while let Ok((connection, _)) = listener.accept().await {
        let requests = requests.clone();
        tokio::spawn(async move {
            if let Err(error) = answer(connection, requests).await {
                tracing::debug!(error = format!("{error:#}"), "an order was not answered");
            }
        });
    }
}

async fn answer(connection: UnixStream, requests: mpsc::Sender<Request>) -> Result<()> {
    let (reader, mut writer) = connection.into_split();
    let mut line = String::new();
    BufReader::new(reader.take(LINE_BYTES_MAX)).read_line(&mut line).await?;
    let (sender, said) = oneshot::channel();
    requests.send((line, sender)).await.context("the lab is stopping")?;
    writer.write_all(said.await?.as_bytes()).await?;
    Ok(())
}

/// Orders typed where the lab was started.
async fn prompt(requests: mpsc::Sender<Request>) {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if line.trim().is_empty() {
            continue;
        }
        let (sender, said) = oneshot::channel();
        if requests.send((line, sender)).await.is_err() {
            return;
        }
        if let Ok(said) = said.await {
            println!("{said}");
        }
    }
}

/// Gives an order to the lab that runs on this machine.
///
/// # Errors
/// When none runs, or several do and none is named, or the order was not carried out.
pub async fn order(lab: Option<&Path>, line: &str) -> Result<String> {
    let socket = match lab {
        Some(dir) => dir.join(SOCKET),
        None => only(reaper::running_labs().into_iter().map(|dir| dir.join(SOCKET)).filter(|path| path.exists()))?,
    };
    let connecting = UnixStream::connect(&socket).await;
    let mut connection = connecting.with_context(|| format!("no lab listens on {}", socket.display()))?;
    connection.write_all(format!("{line}\n").as_bytes()).await?;
    let mut said = String::new();
    connection.read_to_string(&mut said).await?;
    match said.strip_prefix("error: ") {
        Some(error) => bail!("{error}"),
        None => Ok(said),
    }
}

fn only(sockets: impl Iterator<Item = PathBuf>) -> Result<PathBuf> {
    let sockets: Vec<PathBuf> = sockets.collect();
    match &sockets[..] {
        [] => bail!("no lab runs on this machine; start one with `aurora-failover lab`"),
        [only] => Ok(only.clone()),
        several => {
            let dirs: Vec<String> =
                several.iter().filter_map(|path| Some(path.parent()?.display().to_string())).collect();
            bail!("several labs run; name one with --lab: {}", dirs.join(", "))
        }
    }
}
