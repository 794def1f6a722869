//! `aurora-failover audit`: is the history whole, and where can it be taken.

use super::{ConfigFile, history, show, show_as, store};
use anyhow::{Context as _, Result, bail};
use aurora_failover::audit::{Chain, explain};
use aurora_failover::clock;
use aurora_failover::store::{HistoryRow, Path};
use clap::{Args, Subcommand, ValueEnum};
use schemars::JsonSchema;
use serde::Serialize;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

/// Flaws that are told of; with more, the count is enough.
const FLAWS_TOLD: usize = 100;

/// Rows after which progress is told.
const TELL_EVERY: u64 = 50_000;

/// Is the history whole, and where can it be taken?
#[derive(Subcommand)]
pub(super) enum Audit {
    /// Follow the chain of hashes from the first row to the last: a changed, missing or reordered row is found.
    ///
    /// Exits with 0 only if there is no flaw, and prints the newest hash: keep it elsewhere, and a later run proves that
    /// nothing before it was exchanged.
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
        let mut rows = store.rows(&Path::Cluster { cluster: cluster.clone(), from: 0, to: u64::MAX }, false);
        let mut chain = Chain::default();
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
        let newest = chain.newest().map(|(version, hash)| format!("{version}:{hash}"));
        let verdict = Verdict { cluster: cluster.to_string(), rows: chain.rows(), newest, flaws };
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
        show(&format!(
            "{} rows of {cluster}: {}{}",
            verdict.rows,
            if count == 0 {
                "each follows the one before, and none was changed".into()
            } else {
                format!("{count} flaws")
            },
            verdict.newest.map(|newest| format!("\nnewest: {newest}")).unwrap_or_default(),
        ))?;
        Ok(count == 0)
    }
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
    async fn run(self) -> Result<()> {
        let settings = self.file.load()?;
        let (_, store) = store(&settings).await;
        let to: Box<dyn Write + Send> = match &self.to {
            Some(path) => Box::new(File::create(path).with_context(|| format!("creating {}", path.display()))?),
            None => Box::new(std::io::stdout()),
        };
        let mut writer = Writer::new(self.format, BufWriter::new(to))?;
        let (mut seen, mut written) = (0_u64, 0_u64);
        if let Some(path) = self.which.path(&settings, &store).await? {
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
        eprintln!("{written} rows written");
        Ok(())
    }
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
