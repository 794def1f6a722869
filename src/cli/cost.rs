//! `aurora-failover cost`: what a healthy month costs, with the arithmetic.

use super::{ConfigFile, Format, Output, show, show_as, table};
use anyhow::{Context as _, Result};
use aurora_failover::cost::{Prices, bill};
use clap::Args;
use std::path::PathBuf;

/// What a healthy month costs with this configuration, item by item, with the arithmetic.
///
/// Not in it: the databases, traffic between regions, logs, and what a failover adds.
#[derive(Args)]
pub(super) struct Cost {
    #[command(flatten)]
    file: ConfigFile,
    #[command(flatten)]
    output: Output,
    /// Unit prices of your region or contract, in the place of those that come with the program.
    #[arg(long, value_name = "PRICES.toml")]
    prices: Option<PathBuf>,
    /// How many controllers run.
    #[arg(long, default_value_t = 2)]
    controllers: u32,
}

impl Cost {
    pub(super) fn run(self) -> Result<()> {
        let prices = match &self.prices {
            None => Prices::built_in(),
            Some(path) => {
                let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
                Prices::parse(&text).with_context(|| format!("in {}", path.display()))?
            }
        };
        let bill = bill(&self.file.load()?, &prices, self.controllers);
        if self.output.output != Format::Table {
            return show_as(self.output.output, &bill);
        }
        let mut table = table(["for", "how it comes about", "quantity", "unit", "USD per unit", "USD a month"]);
        for line in &bill.lines {
            table.add_row([
                line.what.clone(),
                line.arithmetic.clone(),
                format!("{:.2}", line.quantity),
                line.unit.clone().unwrap_or_else(|| line.item.to_owned()),
                line.unit_usd.map_or_else(|| "unknown".into(), |usd| usd.to_string()),
                line.usd.map_or_else(|| "unknown".into(), |usd| format!("{usd:.2}")),
            ]);
        }
        let mut sources: Vec<&str> = bill.lines.iter().filter_map(|line| line.source.as_deref()).collect();
        sources.sort_unstable();
        sources.dedup();
        let unknown = match bill.unpriced {
            0 => String::new(),
            1 => ", and 1 item whose price is unknown (give it with --prices)".into(),
            items => format!(", and {items} items whose price is unknown (give them with --prices)"),
        };
        let elsewhere = if bill.region == bill.configured_region {
            String::new()
        } else {
            format!(
                "\nwarning: the controller is in {}, where prices differ; give those with --prices",
                bill.configured_region
            )
        };
        show(&format!(
            "{table}\n\n{:.2} USD a month at prices of {}{unknown}{elsewhere}\nPrices from\n  {}",
            bill.usd,
            bill.region,
            sources.join("\n  ")
        ))
    }
}
