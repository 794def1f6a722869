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
        Dlq::Show { file, id } => {
            let settings = file.load()?;
            let (_, letters) = look(&settings, LOOK_MAX).await?;
            show(&found(&letters, &id)?.body)
        }
        Dlq::Redrive { file, which } => redrive(&file.load()?, &which).await,
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
        let shown = letters.into_iter().map(|DeadLetter { id, sent_at, reason, body, .. }| Shown {
            id,
            sent_at: sent_at.map(clock::rfc3339),
            reason,
            body,
        });
        return show_as(format, &shown.collect::<Vec<_>>());
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
        show(&format!("Only {limit} messages are shown; pass --limit for more."))?;
    }
    Ok(())
}

async fn redrive(settings: &Settings, which: &Which) -> Result<()> {
    let (queue, letters) = look(settings, LOOK_MAX).await?;
    let chosen: Vec<&DeadLetter> = if which.all {
        letters.iter().collect()
    } else {
        which.ids.iter().map(|id| found(&letters, id)).collect::<Result<_>>()?
    };
    let decoder = Decoder::new(&settings.clusters);
    let (mut sent, mut kept) = (0, 0);
    for letter in chosen {
        let target = if decoder.decode(&letter.body, Channel::Operator).is_ok() {
            &settings.operator_queue
        } else if let Err(refusal) = decoder.decode(&letter.body, Channel::Evidence) {
            kept += 1;
            show(&format!("kept    {}: {refusal}", letter.id))?;
            continue;
        } else {
            &settings.queue
        };
        queue.send_on(letter, target).await?;
        sent += 1;
        show(&format!("sent    {} to {target}", letter.id))?;
    }
    show(&format!("{sent} sent, {kept} kept."))
}
