//! `aurora-failover dlq`: what could not be used, why, and the way back.

use super::{ConfigFile, Format, Output, show, show_as, table};
use anyhow::{Result, bail};
use aurora_failover::config::Settings;
use aurora_failover::envelope::{Channel, Decoder};
use aurora_failover::sqs::{DeadLetter, DeadLetters};
use aurora_failover::{aws, clock};
use clap::{Args, Subcommand};
use schemars::JsonSchema;
use serde::Serialize;

#[derive(Subcommand)]
pub(super) enum Dlq {
    /// What is there, and why: oldest first as SQS gives it.
    List {
        #[command(flatten)]
        file: ConfigFile,
        #[command(flatten)]
        output: Output,
        /// At most this many.
        #[arg(long, default_value_t = 100, value_name = "N")]
        limit: usize,
    },
    /// One message, whole.
    Show {
        #[command(flatten)]
        file: ConfigFile,
        #[command(flatten)]
        output: Output,
        /// Its id, or the beginning of it, as `list` prints it.
        id: String,
    },
    /// Send messages to the queue where they belong, and take them away here.
    ///
    /// Only what can be used now is sent: an event that is still refused stays, with its reason. A command that has
    /// expired meanwhile is refused by the machine, and that stands in the history.
    Redrive {
        #[command(flatten)]
        file: ConfigFile,
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        which: Which,
    },
}

#[derive(Args)]
#[group(required = true, multiple = false)]
pub(super) struct Which {
    /// These ones, by id or its beginning.
    ids: Vec<String>,
    /// Everything that is there.
    #[arg(long)]
    all: bool,
}

/// Most messages that `show` and `redrive` look through.
const LOOK_MAX: usize = 10_000;

pub(super) async fn run(command: Dlq) -> Result<()> {
    match command {
        Dlq::List { file, output, limit } => list(&file.load()?, output.output, limit).await,
        Dlq::Show { file, output, id } => {
            let settings = file.load()?;
            let (_, letters) = look(&settings, LOOK_MAX).await?;
            let letter = found(&letters, &id)?;
            match output.output {
                Format::Table => show(&letter.body),
                format => show_as(format, &Shown::of(letter)),
            }
        }
        Dlq::Redrive { file, output, which } => redrive(&file.load()?, output.output, &which).await,
    }
}

/// A message, for programs.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Shown {
    /// Of SQS.
    id: String,
    /// RFC 3339.
    sent_at: Option<String>,
    /// Why it could not be used; none when it was given up after too many deliveries.
    reason: Option<String>,
    /// As it came.
    body: String,
}

impl Shown {
    fn of(letter: &DeadLetter) -> Self {
        let DeadLetter { id, sent_at, reason, body, .. } = letter;
        Self { id: id.clone(), sent_at: sent_at.map(clock::rfc3339), reason: reason.clone(), body: body.clone() }
    }
}

/// What became of a message, for programs.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Redriven {
    /// Of SQS.
    id: String,
    /// The queue that it was sent to; none when it stays.
    sent_to: Option<String>,
    /// Why it stays.
    kept: Option<String>,
}

async fn look(settings: &Settings, limit: usize) -> Result<(DeadLetters, Vec<DeadLetter>)> {
    let sdk = aws::load(&settings.region, &settings.aws).await;
    let queue = DeadLetters::open(&sdk, &settings.dead_letter_queue).await?;
    let letters = queue.look(limit).await?;
    Ok((queue, letters))
}

fn found<'a>(letters: &'a [DeadLetter], id: &str) -> Result<&'a DeadLetter> {
    let mut matching = letters.iter().filter(|letter| letter.id.starts_with(id));
    match (matching.next(), matching.next()) {
        (Some(letter), None) => Ok(letter),
        (Some(_), Some(_)) => bail!("several messages begin with {id:?}; give more of the id"),
        (None, _) => bail!("no message begins with {id:?}; `aurora-failover dlq list` shows what is there"),
    }
}

async fn list(settings: &Settings, format: Format, limit: usize) -> Result<()> {
    let (_, letters) = look(settings, limit).await?;
    if format != Format::Table {
        return show_as(format, &letters.iter().map(Shown::of).collect::<Vec<_>>());
    }
    if letters.is_empty() {
        return show(&format!("Queue {} is empty: everything could be used.", settings.dead_letter_queue));
    }
    let mut table = table(["id", "sent (UTC)", "reason", "message"]);
    for letter in &letters {
        let beginning: String = letter.body.chars().take(60).collect();
        table.add_row([
            letter.id.clone(),
            letter.sent_at.map_or_else(|| "-".into(), clock::rfc3339),
            letter.reason.clone().unwrap_or_else(|| "given up after too many deliveries".into()),
            beginning.replace('\n', " "),
        ]);
    }
    show(&table.to_string())?;
    if letters.len() == limit {
        show(&format!(
            "Only {} shown; pass --limit for more.",
            match limit {
                1 => "1 message is".to_owned(),
                limit => format!("{limit} messages are"),
            }
        ))?;
    }
    Ok(())
}

async fn redrive(settings: &Settings, format: Format, which: &Which) -> Result<()> {
    let (queue, letters) = look(settings, LOOK_MAX).await?;
    let chosen: Vec<&DeadLetter> = if which.all {
        letters.iter().collect()
    } else {
        which.ids.iter().map(|id| found(&letters, id)).collect::<Result<_>>()?
    };
    let decoder = Decoder::new(&settings.clusters);
    let mut redriven = Vec::new();
    for letter in chosen {
        let target = if decoder.decode(&letter.body, Channel::Operator).is_ok() {
            Ok(&settings.operator_queue)
        } else {
            decoder.decode(&letter.body, Channel::Evidence).map(|_| &settings.queue)
        };
        let one = match target {
            Ok(target) => {
                queue.send_on(letter, target).await?;
                Redriven { id: letter.id.clone(), sent_to: Some(target.clone()), kept: None }
            }
            Err(refusal) => Redriven { id: letter.id.clone(), sent_to: None, kept: Some(refusal.to_string()) },
        };
        if format == Format::Table {
            match (&one.sent_to, &one.kept) {
                (Some(target), _) => show(&format!("sent    {} to {target}", one.id))?,
                (None, why) => show(&format!("kept    {}: {}", one.id, why.as_deref().unwrap_or_default()))?,
            }
        }
        redriven.push(one);
    }
    if format != Format::Table {
        return show_as(format, &redriven);
    }
    let sent = redriven.iter().filter(|one| one.sent_to.is_some()).count();
    show(&format!("{sent} sent, {} kept.", redriven.len() - sent))
}
