//! Finds PostgreSQL on this machine. Nothing is downloaded here: `scripts/setup` does that, and says so.

use anyhow::{Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Older ones rewind wrongly right after a promotion.
const MAJOR_MIN: u32 = 16;

/// What must be there.
const PROGRAMS: [&str; 4] = ["postgres", "initdb", "pg_basebackup", "pg_rewind"];

/// PostgreSQL's programs.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// Where they are.
    pub dir: PathBuf,
    /// Version, such as `18.4`.
    pub version: String,
}

impl Binaries {
    /// `$LAB_PG_BIN`, then installed packages, then PATH, then the cache that `scripts/setup` fills.
    ///
    /// # Errors
    /// Lists every place looked at, and what was wrong with it.
    pub fn find() -> Result<Self> {
        let mut looked_at = Vec::new();
        for dir in candidates() {
            match Self::usable(&dir) {
                Ok(binaries) => return Ok(binaries),
                Err(why) => looked_at.push(format!("  {}: {why}", dir.display())),
            }
        }
        bail!(
            "no PostgreSQL {MAJOR_MIN} or newer found; run scripts/setup to install one, or set LAB_PG_BIN to the \
             directory of its programs. Looked at:\n{}",
            looked_at.join("\n")
        )
    }

    fn usable(dir: &Path) -> Result<Self, String> {
        for program in PROGRAMS {
            if !dir.join(program).is_file() {
                return Err(format!("no {program}"));
            }
        }
        let output = Command::new(dir.join("postgres")).arg("--version").output();
        let output = output.map_err(|error| format!("postgres cannot be run: {error}"))?;
        let shown = String::from_utf8_lossy(&output.stdout);
        let version = shown.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
        let version = version.ok_or_else(|| format!("postgres --version says {shown:?}"))?;
        if major(version) < MAJOR_MIN {
            return Err(format!("version {version} is too old"));
        }
        Ok(Self { dir: dir.into(), version: version.into() })
    }

    /// The major version.
    #[must_use]
    pub fn major(&self) -> u32 {
        major(&self.version)
    }

    /// The path of one program.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

fn major(version: &str) -> u32 {
    version.split(|c: char| !c.is_ascii_digit()).next().and_then(|major| major.parse().ok()).unwrap_or(0)
}

fn candidates() -> Vec<PathBuf> {
    let chosen = std::env::var_os("LAB_PG_BIN").map(PathBuf::from);
    let mut packaged = sub_dirs(Path::new("/usr/lib/postgresql"));
    packaged.sort_by_key(|dir| std::cmp::Reverse(major_in_name(dir)));
    let packaged = packaged.into_iter().map(|dir| dir.join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).filter(|dir| dir.join("postgres").is_file()).collect::<Vec<_>>();
    let mut cached = bin_dirs(&cache_dir().join("postgresql"), 4);
    cached.sort();
    cached.reverse();
    chosen.into_iter().chain(packaged).chain(in_path).chain(cached).collect()
}

/// Where `scripts/setup` unpacks, and where templates are kept: readable by the user that servers run as.
pub(super) fn cache_dir() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return "/var/cache/aurora-failover".into();
    }
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/tmp".into())).join(".cache");
    std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("aurora-failover")
}

fn sub_dirs(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

fn major_in_name(dir: &Path) -> u32 {
    dir.file_name().and_then(|name| name.to_str()?.parse().ok()).unwrap_or(0)
}

/// Directories named `bin` that hold a server, a few levels down.
fn bin_dirs(dir: &Path, depth: u32) -> Vec<PathBuf> {
    if depth == 0 {
        return Vec::new();
    }
    let mut found = Vec::new();
    for sub in sub_dirs(dir) {
        if sub.ends_with("bin") && sub.join("postgres").is_file() {
            found.push(sub);
        } else {
            found.extend(bin_dirs(&sub, depth - 1));
        }
    }
    found
}
