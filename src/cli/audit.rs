//! `aurora-failover audit`: is the history whole, and where can it be taken.

use super::{ConfigFile, history, show, show_as, store};
use anyhow::{Context as _, Result, bail};
use aurora_failover::audit::{Chain, explain};
use aurora_failover::clock;
use aurora_failover::config::Settings;
use aurora_failover::store::{DynamoDb, HistoryRow, Item, Path};
use clap::{Args, Subcommand, ValueEnum};
use schemars::JsonSchema;
use serde::Serialize;
use statemachine::ClusterId;
use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::PathBuf;
use std::time::Duration;

/// Flaws that are told of; with more, the count is enough.
const FLAWS_TOLD: usize = 100;

/// Looks for the row of the state item before it counts as missing, and the pause between them.
const SETTLING_LOOKS: usize = 5;
const SETTLING_PAUSE: Duration = Duration::from_millis(400);

/// Rows after which progress is told.
const TELL_EVERY: u64 = 50_000;

/// Is the history whole, and where can it be taken?
#[derive(Subcommand)]
pub(super) enum Audit {
    /// Follow the chain of hashes from the first row to the last: a changed, missing or reordered row is found, also at
    /// either end.
    ///
    /// The last row has to be the one that the state item was written with, and the first one version 1, unless rows
    /// expire (`retention`). Exits with 0 only if there is no flaw, and prints the newest hash: keep it elsewhere, and a
    /// later run proves that nothing before it was exchanged.
    Verify(Verify),
    /// Write the history, oldest first, for other tools. Memory stays the same however many rows there are.
    Export(Export),
}

#[derive(Args)]
pub(super) struct Verify {
    #[command(flatten)]
    file: ConfigFile,
    #[command(flatten)]
    output: super::Output,
    /// Which cluster; may be left out when the configuration has only one.
    #[arg(long)]
    cluster: Option<String>,
    /// The row of this version must have this hash, `VERSION:HASH` as an earlier run printed it.
    #[arg(long, value_name = "VERSION:HASH")]
    anchor: Option<String>,
}

#[derive(Args)]
pub(super) struct Export {
    #[command(flatten)]
    file: ConfigFile,
    #[command(flatten)]
    which: history::Which,
    /// The shape: a JSON object per line with everything, or a flat table with the row as JSON in the last column.
    #[arg(long, value_enum, default_value_t = Shape::Json)]
    format: Shape,
    /// Where to; standard output when not given.
    #[arg(long, short = 'f', value_name = "FILE")]
    to: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shape {
    /// JSON lines.
    Json,
    /// Comma-separated, with a header.
    Csv,
    /// Apache Parquet, as Athena reads it.
    #[cfg(feature = "parquet")]
    Parquet,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Verdict {
    cluster: String,
    rows: u64,
    /// Version of the oldest row.
    oldest: Option<u64>,
    /// Version and hash of the newest row.
    newest: Option<String>,
    flaws: Vec<String>,
}

pub(super) async fn run(command: Audit) -> Result<bool> {
    match command {
        Audit::Verify(verify) => verify.run().await,
        Audit::Export(export) => export.run().await.map(|()| true),
    }
}

impl Verify {
    /// Is there no flaw?
    async fn run(self) -> Result<bool> {
        let settings = self.file.load()?;
        let cluster = super::one_cluster(&settings, self.cluster.clone())?;
        let anchor = self.anchor.as_deref().map(|anchor| {
            let parts = anchor.split_once(':').and_then(|(version, hash)| Some((version.parse::<u64>().ok()?, hash)));
            parts.with_context(|| format!("--anchor {anchor:?} is not VERSION:HASH"))
        });
        let anchor = anchor.transpose()?;
        let (_, store) = store(&settings).await;
        // Before the rows: whatever is written meanwhile only adds to them.
        let state = settled(&store, &cluster).await?;
        let mut rows = store.rows(&Path::Cluster { cluster: cluster.clone(), from: 0, to: u64::MAX }, false);
        let mut chain = match &state {
            Some(item) => Chain::reaching(item.version, &item.row.hash),
            None => Chain::default(),
        };
        let (mut flaws, mut count, mut anchored) = (Vec::new(), 0, false);
        while let Some(row) = rows.next().await? {
            let mut found: Vec<String> = chain.check(&row).iter().map(ToString::to_string).collect();
            if let Some((version, hash)) = anchor.filter(|(version, _)| *version == row.version) {
                anchored = true;
                if hash != row.hash {
                    found.push(format!("row {version} is not the one that was anchored: its hash was {hash}"));
                }
            }
            count += found.len();
            flaws.extend(found.into_iter().take(FLAWS_TOLD.saturating_sub(flaws.len())));
            if chain.rows().is_multiple_of(TELL_EVERY) {
                eprintln!("{} rows checked", chain.rows());
            }
        }
        if let Some((version, _)) = anchor.filter(|_| !anchored) {
            count += 1;
            flaws.push(format!("row {version}, which was anchored, is missing"));
        }
        let ends = chain.ends(settings.retention.is_some());
        let stateless = (state.is_none() && chain.rows() > 0).then(|| "the state item is missing".to_owned());
        let at_the_ends: Vec<String> = ends.iter().map(ToString::to_string).chain(stateless).collect();
        count += at_the_ends.len();
        flaws.extend(at_the_ends);
        let newest = chain.newest().map(|(version, hash)| format!("{version}:{hash}"));
        let (cluster_name, rows, oldest) = (cluster.to_string(), chain.rows(), chain.oldest());
        let verdict = Verdict { cluster: cluster_name, rows, oldest, newest, flaws };
        if self.output.output != super::Format::Table {
            show_as(self.output.output, &verdict)?;
            return Ok(count == 0);
        }
        for flaw in &verdict.flaws {
            show(&format!("flaw: {flaw}"))?;
        }
        if count > verdict.flaws.len() {
            show(&format!("and {} more", count - verdict.flaws.len()))?;
        }
        if verdict.rows == 0 && count == 0 {
            show(&format!("nothing is stored of {cluster} yet: there is nothing to verify"))?;
            return Ok(true);
        }
        let found = match count {
            0 => "each follows the one before, none was changed, and the last is the one that the state item knows"
                .into(),
            count => explain::count(count, "flaw"),
        };
        show(&format!("{} of {cluster}: {found}", explain::count(verdict.rows, "row")))?;
        if let Some(oldest) = verdict.oldest.filter(|oldest| *oldest > 1 && settings.retention.is_some()) {
            show(&format!("it begins at version {oldest}: what was before has expired, or is gone"))?;
        }
        verdict.newest.map_or(Ok(()), |newest| show(&format!("newest: {newest}")))?;
        Ok(count == 0)
    }
}

/// The state item, once its row is written: between the two is a moment in which only the item knows the row.
async fn settled(store: &DynamoDb, cluster: &ClusterId) -> Result<Option<Item>> {
    for _ in 0..SETTLING_LOOKS {
        let Some(item) = store.read(cluster).await? else { return Ok(None) };
        let path = Path::Cluster { cluster: cluster.clone(), from: item.version, to: item.version };
        if store.rows(&path, false).next().await?.is_some() {
            return Ok(Some(item));
        }
        tokio::time::sleep(SETTLING_PAUSE).await;
    }
    Ok(store.read(cluster).await?)
}

/// A row as a flat table has it.
#[derive(Serialize)]
#[cfg_attr(feature = "parquet", derive(parquet_derive::ParquetRecordWriter))]
struct Flat {
    cluster: String,
    version: i64,
    at: String,
    at_ms: i64,
    event_kind: String,
    event_id: String,
    event_age_ms: i64,
    actor: String,
    from_state: String,
    to_state: String,
    rule: String,
    episode: Option<String>,
    outcome: Option<String>,
    epoch: i64,
    answer: Option<String>,
    config_hash: String,
    software: String,
    hash: String,
    previous_hash: String,
    row: String,
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl Flat {
    fn of(row: &HistoryRow) -> Self {
        Self {
            cluster: row.cluster.to_string(),
            version: signed(row.version),
            at: clock::rfc3339(row.at),
            at_ms: signed(row.at.0),
            event_kind: row.event.event.name().into(),
            event_id: row.event.id.as_str().into(),
            event_age_ms: signed(row.event_age_ms),
            actor: row.actor.clone(),
            from_state: row.from.clone(),
            to_state: row.to.clone(),
            rule: explain::word(&row.rule),
            episode: row.episode.as_ref().map(ToString::to_string),
            outcome: row.outcome.map(|outcome| explain::word(&outcome)),
            epoch: signed(row.epoch.0),
            answer: row.answer.clone(),
            config_hash: row.config_hash.clone(),
            software: row.software.clone(),
            hash: row.hash.clone(),
            previous_hash: row.previous_hash.clone(),
            row: serde_json::to_string(row).expect("a row is plain data"),
        }
    }
}

/// Takes rows one after the other.
enum Writer<W: Write + Send> {
    Json(W),
    Csv(Box<csv::Writer<W>>),
    #[cfg(feature = "parquet")]
    Parquet(Box<columns::Columns<W>>),
}

impl<W: Write + Send> Writer<W> {
    fn new(shape: Shape, to: W) -> Result<Self> {
        Ok(match shape {
            Shape::Json => Self::Json(to),
            Shape::Csv => Self::Csv(Box::new(csv::Writer::from_writer(to))),
            #[cfg(feature = "parquet")]
            Shape::Parquet => Self::Parquet(Box::new(columns::Columns::new(to)?)),
        })
    }

    fn write(&mut self, row: &HistoryRow) -> Result<()> {
        match self {
            Self::Json(to) => {
                serde_json::to_writer(&mut *to, row)?;
                to.write_all(b"\n")?;
            }
            Self::Csv(to) => to.serialize(Flat::of(row))?,
            #[cfg(feature = "parquet")]
            Self::Parquet(to) => to.write(Flat::of(row))?,
        }
        Ok(())
    }

    fn finish(self) -> Result<()> {
        match self {
            Self::Json(mut to) => to.flush()?,
            Self::Csv(mut to) => to.flush()?,
            #[cfg(feature = "parquet")]
            Self::Parquet(to) => to.finish()?,
        }
        Ok(())
    }
}

impl Export {
    /// Whoever reads standard output may have seen enough: a closed pipe is no error.
    async fn run(self) -> Result<()> {
        let settings = self.file.load()?;
        let (_, store) = store(&settings).await;
        match self.write(&settings, &store).await {
            Err(error) if self.to.is_none() && closes(&error) => Ok(()),
            other => other,
        }
    }

    async fn write(&self, settings: &Settings, store: &DynamoDb) -> Result<()> {
        let path = self.which.path(settings, store).await?;
        let to: Box<dyn Write + Send> = match &self.to {
            Some(path) => Box::new(File::create(path).with_context(|| format!("creating {}", path.display()))?),
            None => Box::new(std::io::stdout()),
        };
        let mut writer = Writer::new(self.format, BufWriter::new(to))?;
        let (mut seen, mut written) = (0_u64, 0_u64);
        if let Some(path) = path {
            let mut rows = store.rows(&path, false);
            while let Some(row) = rows.next().await? {
                seen += 1;
                if self.which.meets(&row) {
                    written += 1;
                    writer.write(&row)?;
                }
                if seen.is_multiple_of(TELL_EVERY) {
                    eprintln!("{seen} rows read, {written} written");
                }
            }
        }
        writer.finish()?;
        if written == 0 {
            bail!("no row is like that; nothing was written");
        }
        eprintln!("{} written", explain::count(written, "row"));
        Ok(())
    }
}

/// Is it only that nobody reads any more?
fn closes(error: &anyhow::Error) -> bool {
    let broken = |error: &std::io::Error| error.kind() == ErrorKind::BrokenPipe;
    error.chain().any(|cause| {
        let csv = cause.downcast_ref::<csv::Error>().map(csv::Error::kind);
        let in_csv = matches!(csv, Some(csv::ErrorKind::Io(error)) if broken(error));
        let json = cause.downcast_ref::<serde_json::Error>().and_then(serde_json::Error::io_error_kind);
        in_csv || json == Some(ErrorKind::BrokenPipe) || cause.downcast_ref().is_some_and(broken)
    })
}

#[cfg(feature = "parquet")]
mod columns {
    //! Parquet, a group of rows at a time.

    use super::Flat;
    use anyhow::Result;
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::record::RecordWriter as _;
    use std::io::Write;
    use std::sync::Arc;

    /// Rows of a group: so many are kept in memory.
    const GROUP_ROWS: usize = 2_000;

    pub(super) struct Columns<W: Write + Send> {
        file: SerializedFileWriter<W>,
        group: Vec<Flat>,
    }

    impl<W: Write + Send> Columns<W> {
        pub(super) fn new(to: W) -> Result<Self> {
            let schema = [].as_slice() as &[Flat];
            let file = SerializedFileWriter::new(to, schema.schema()?, Arc::new(WriterProperties::default()))?;
            Ok(Self { file, group: Vec::new() })
        }

        pub(super) fn write(&mut self, row: Flat) -> Result<()> {
            self.group.push(row);
            if self.group.len() == GROUP_ROWS { self.flush() } else { Ok(()) }
        }

        fn flush(&mut self) -> Result<()> {
            if !self.group.is_empty() {
                let mut group = self.file.next_row_group()?;
                self.group.as_slice().write_to_row_group(&mut group)?;
                group.close()?;
                self.group.clear();
            }
            Ok(())
        }

        pub(super) fn finish(mut self) -> Result<()> {
            self.flush()?;
            self.file.close()?;
            Ok(())
        }
    }
}
