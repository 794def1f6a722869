//! Finds PostgreSQL on this machine. Nothing is downloaded here: `scripts/setup` does that, and says so.

use anyhow::{Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Older ones rewind wrongly right after a promotion.
const MAJOR_MIN: u32 = 16;

/// What must be there.
const PROGRAMS: [&str; 6] = ["postgres", "initdb", "pg_ctl", "pg_basebackup", "pg_rewind", "psql"];

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
        Self::find_in(&places())
    }

    /// The newest of the first place that has any.
    fn find_in(places: &[Place]) -> Result<Self> {
        let mut looked_at = Vec::new();
        for place in places {
            if place.dirs.is_empty() {
                looked_at.push(format!("  {}: not set, or no PostgreSQL there", place.name));
            }
            let mut usable = Vec::new();
            for dir in &place.dirs {
                match Self::usable(dir) {
                    Ok(binaries) => usable.push(binaries),
                    Err(why) => looked_at.push(format!("  {}: {}: {why}", place.name, dir.display())),
                }
            }
            // The first of equals.
            usable.reverse();
            if let Some(newest) = usable.into_iter().max_by_key(|found| numbers(&found.version)) {
                return Ok(newest);
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
    numbers(version).first().copied().unwrap_or(0)
}

/// `18.4` or `19beta1` as numbers, to compare.
fn numbers(version: &str) -> Vec<u32> {
    version.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse().ok()).collect()
}

/// A place to look in.
struct Place {
    name: String,
    dirs: Vec<PathBuf>,
}

fn places() -> [Place; 4] {
    let chosen = std::env::var_os("LAB_PG_BIN").map(PathBuf::from);
    let packages = Path::new("/usr/lib/postgresql");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).filter(|dir| dir.join("postgres").is_file());
    let cache = cache_dir().join("postgresql");
    [
        Place {
            name: "$LAB_PG_BIN".into(),
            dirs: chosen.into_iter().filter(|dir| !dir.as_os_str().is_empty()).collect(),
        },
        Place { name: packages.display().to_string(), dirs: bin_dirs(packages, 2) },
        // An old one that comes first in PATH does not hide a newer one.
        Place { name: "$PATH".into(), dirs: in_path.collect() },
        Place { name: cache.display().to_string(), dirs: bin_dirs(&cache, 4) },
    ]
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    /// A directory of programs that claim to be of this version.
    fn install(root: &Path, name: &str, version: &str) -> PathBuf {
        let dir = root.join(name).join("bin");
        fs::create_dir_all(&dir).unwrap();
        for program in PROGRAMS {
            let script = format!("#!/bin/sh\necho '{program} (PostgreSQL) {version}'\n");
            fs::write(dir.join(program), script).unwrap();
            fs::set_permissions(dir.join(program), fs::Permissions::from_mode(0o755)).unwrap();
        }
        dir
    }

    fn place(name: &str, dirs: Vec<PathBuf>) -> Place {
        Place { name: name.into(), dirs }
    }

    #[test]
    fn the_newest_of_the_first_place_that_has_any_is_taken() {
        let root = tempfile::tempdir().unwrap();
        for (name, version) in [("cache/w/9", "16.14"), ("cache/w/18", "18.4"), ("cache/w/8", "18.10 (Debian)")] {
            install(root.path(), name, version);
        }
        let old = install(root.path(), "old", "15.18");
        let later = install(root.path(), "later", "19.0");
        let cached = bin_dirs(&root.path().join("cache"), 4);
        assert_eq!(cached.len(), 3);
        let found = Binaries::find_in(&[place("old", vec![old]), place("cache", cached), place("later", vec![later])]);
        let found = found.unwrap();
        assert_eq!((found.version.as_str(), found.major()), ("18.10", 18));
        assert!(found.program("initdb").is_file());
    }

    #[test]
    fn an_error_names_each_place_and_what_to_do() {
        let root = tempfile::tempdir().unwrap();
        let old = install(root.path(), "old", "15.18");
        let broken = install(root.path(), "broken", "18.4");
        fs::remove_file(broken.join("pg_rewind")).unwrap();
        let places = [place("$LAB_PG_BIN", vec![]), place("packages", vec![old]), place("$PATH", vec![broken])];
        let error = Binaries::find_in(&places).unwrap_err().to_string();
        for part in ["scripts/setup", "$LAB_PG_BIN: not set", "version 15.18 is too old", "no pg_rewind"] {
            assert!(error.contains(part), "{part} is missing: {error}");
        }
    }
}
