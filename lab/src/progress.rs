//! Progress of a long operation: a spinner on a terminal, a line per step elsewhere. On standard error, so that
//! standard output holds results only.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

/// Shows which step is under way.
pub struct Progress {
    bar: Option<ProgressBar>,
    headline: String,
    began: Instant,
}

impl Progress {
    /// Each line begins with `headline`.
    #[must_use]
    pub fn new(headline: &str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} [{elapsed}] {msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { bar, headline: headline.into(), began: Instant::now() }
    }

    /// A step begins.
    pub fn step(&self, what: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(format!("{}{what}", self.headline)),
            None => eprintln!("{}[{:6.1} s] {what}", self.headline, self.began.elapsed().as_secs_f64()),
        }
    }

    /// All steps are done.
    pub fn done(&self, what: &str) {
        match &self.bar {
            Some(bar) => bar.finish_with_message(format!("{}{what}", self.headline)),
            None => self.step(what),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.as_ref().filter(|bar| !bar.is_finished()) {
            bar.finish_and_clear();
        }
    }
}
