//! Wheels: which of them fit, and what is in them.

use crate::failure::Failure;
use pep440_rs::{Version, VersionSpecifiers};
use pep508_rs::{MarkerEnvironment, Requirement, StringVersion};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::{Cursor, Read as _};
use std::str::FromStr as _;
use zip::ZipArchive;

/// Whose instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum Architecture {
    #[serde(rename = "arm64")]
    Arm64,
    #[serde(rename = "x86_64")]
    X86,
}

impl Architecture {
    /// As AWS writes it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Arm64 => "arm64",
            Self::X86 => "x86_64",
        }
    }

    /// As Python writes it.
    const fn machine(self) -> &'static str {
        match self {
            Self::Arm64 => "aarch64",
            Self::X86 => "x86_64",
        }
    }
}

/// CPython 3 in Lambda.
#[derive(Debug, Clone, Copy)]
pub(super) struct Python {
    /// The 13 of 3.13.
    pub(super) minor: u32,
    pub(super) architecture: Architecture,
}

/// How well a wheel fits: smaller is better.
pub(super) type Fit = (u32, u32);

impl Python {
    /// Reads `3.13`.
    pub(super) fn parse(version: &str, architecture: Architecture) -> Option<Self> {
        let minor = version.strip_prefix("3.")?.parse().ok().filter(|minor| (8..100).contains(minor))?;
        Some(Self { minor, architecture })
    }

    /// For `Requires-Python`, which is about three numbers.
    pub(super) fn version(self) -> Version {
        Version::new([3, u64::from(self.minor), 0])
    }

    /// glibc of Amazon Linux 2, and of Amazon Linux 2023 beneath Python 3.12 and later.
    const fn glibc_minor(self) -> u32 {
        if self.minor >= 12 { 34 } else { 26 }
    }

    pub(super) fn markers(self) -> Result<MarkerEnvironment, Failure> {
        let version = |text: String| StringVersion::from_str(&text).map_err(|error| Failure::new(error.to_string()));
        let (short, full) = (version(format!("3.{}", self.minor))?, version(format!("3.{}.0", self.minor))?);
        Ok(MarkerEnvironment {
            implementation_name: "cpython".into(),
            implementation_version: full.clone(),
            os_name: "posix".into(),
            platform_machine: self.architecture.machine().into(),
            platform_python_implementation: "CPython".into(),
            platform_release: String::new(),
            platform_system: "Linux".into(),
            platform_version: String::new(),
            python_full_version: full,
            python_version: short,
            sys_platform: "linux".into(),
        })
    }

    /// None when it does not fit.
    pub(super) fn fits(self, name: &WheelName) -> Option<Fit> {
        let platform = name.platforms.iter().filter_map(|platform| self.platform(platform)).min()?;
        let tags = name.pythons.iter().flat_map(|python| name.abis.iter().map(move |abi| (python, abi)));
        let tag = tags.filter_map(|(python, abi)| self.tag(python, abi)).min()?;
        Some((tag, platform))
    }

    /// The newest glibc that it may ask for comes first, then older ones, then what runs anywhere.
    fn platform(self, platform: &str) -> Option<u32> {
        if platform == "any" {
            return Some(1_000);
        }
        let machine = self.architecture.machine();
        let standard = platform.strip_suffix(machine)?.strip_suffix('_')?;
        let glibc_minor = match standard {
            "manylinux1" => 5,
            "manylinux2010" => 12,
            "manylinux2014" => 17,
            "linux" => return Some(900),
            other => other.strip_prefix("manylinux_2_")?.parse().ok()?,
        };
        self.glibc_minor().checked_sub(glibc_minor)
    }

    /// Made for this version, then the stable interface of this or an older one, then plain Python.
    fn tag(self, python: &str, abi: &str) -> Option<u32> {
        let this = format!("cp3{}", self.minor);
        if let Some(minor) = python.strip_prefix("cp3").and_then(|minor| minor.parse::<u32>().ok()) {
            return match abi {
                _ if minor > self.minor => None,
                "abi3" => Some(1 + self.minor - minor),
                _ if python == this && abi == this => Some(0),
                "none" if python == this => Some(150),
                _ => None,
            };
        }
        if abi != "none" {
            return None;
        }
        match python.strip_prefix("py3") {
            Some("") => Some(300),
            Some(minor) => Some(200 + self.minor.checked_sub(minor.parse().ok()?)?),
            None => None,
        }
    }
}

/// The name of a wheel's file, in its parts.
#[derive(Debug, Clone)]
pub(super) struct WheelName {
    pub(super) version: Version,
    pythons: Vec<String>,
    abis: Vec<String>,
    platforms: Vec<String>,
}

impl WheelName {
    /// None for other files.
    pub(super) fn parse(file: &str) -> Option<Self> {
        let parts: Vec<&str> = file.strip_suffix(".whl")?.split('-').collect();
        let [_, version, .., python, abi, platform] = parts.as_slice() else { return None };
        if !(5..=6).contains(&parts.len()) {
            return None;
        }
        let tags = |text: &str| text.split('.').map(ToOwned::to_owned).collect();
        // A dash of a version is an underscore in a file's name.
        let version = Version::from_str(&version.replace('_', "-")).ok()?;
        Some(Self { version, pythons: tags(python), abis: tags(abi), platforms: tags(platform) })
    }
}

/// A wheel's content.
pub(super) struct Wheel {
    pub(super) requires_dist: Vec<Requirement>,
    pub(super) requires_python: Option<VersionSpecifiers>,
    /// By path below `python/`.
    pub(super) files: BTreeMap<String, Vec<u8>>,
}

/// Unpacks a wheel to at most so many bytes.
pub(super) fn unpack(name: &str, bytes: Vec<u8>, bytes_max: usize) -> Result<Wheel, Failure> {
    let failed = |what: String| Failure::new(format!("the wheel {name}: {what}"));
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(|error| failed(error.to_string()))?;
    let (mut files, mut metadata) = (BTreeMap::new(), None);
    let mut left = bytes_max as u64;
    for index in 0..archive.len() {
        let entry = archive.by_index(index).map_err(|error| failed(error.to_string()))?;
        if entry.is_dir() {
            continue;
        }
        let path = entry.name().map_err(|error| failed(error.to_string()))?.into_owned();
        let parts: Vec<&str> = path.split('/').collect();
        let stays = parts.iter().all(|part| !part.is_empty() && *part != "." && *part != ".." && !part.contains('\\'));
        if !stays || entry.is_symlink() {
            return Err(failed(format!("it has a file outside of it: {path:?}")));
        }
        let mut content = Vec::new();
        entry.take(left + 1).read_to_end(&mut content).map_err(|error| failed(error.to_string()))?;
        left = left.checked_sub(content.len() as u64).ok_or_else(|| {
            failed(format!(
                "it unpacks to more than the {bytes_max} bytes that a layer and the function's memory have left"
            ))
        })?;
        if let [directory, "METADATA"] = parts.as_slice()
            && directory.ends_with(".dist-info")
        {
            metadata = Some(String::from_utf8_lossy(&content).into_owned());
        }
        if let Some(path) = installed(&parts) {
            files.insert(path, content);
        }
    }
    let metadata = metadata.ok_or_else(|| failed("it has no METADATA".into()))?;
    let (requires_dist, requires_python) = read_metadata(&metadata).map_err(failed)?;
    Ok(Wheel { requires_dist, requires_python, files })
}

/// Where a file is installed; headers and the like are of no use.
fn installed(parts: &[&str]) -> Option<String> {
    match parts {
        [data, kind, rest @ ..] if data.ends_with(".data") && !rest.is_empty() => match *kind {
            "purelib" | "platlib" | "data" => Some(rest.join("/")),
            "scripts" => Some(format!("bin/{}", rest.join("/"))),
            _ => None,
        },
        _ => Some(parts.join("/")),
    }
}

type Metadata = (Vec<Requirement>, Option<VersionSpecifiers>);

fn read_metadata(text: &str) -> Result<Metadata, String> {
    let (mut requires_dist, mut requires_python) = (Vec::new(), None);
    for line in text.lines().take_while(|line| !line.is_empty()) {
        let Some((name, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        if name.eq_ignore_ascii_case("Requires-Dist") {
            let requirement = Requirement::from_str(value);
            requires_dist.push(requirement.map_err(|error| format!("it requires {value:?}: {}", error.message))?);
        } else if name.eq_ignore_ascii_case("Requires-Python") {
            requires_python = Some(VersionSpecifiers::from_str(value).map_err(|error| error.to_string())?);
        }
    }
    Ok((requires_dist, requires_python))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn best(minor: u32, architecture: Architecture, names: &[&str]) -> Option<String> {
        let python = Python { minor, architecture };
        let fits = names.iter().filter_map(|name| Some((python.fits(&WheelName::parse(name)?)?, *name)));
        fits.min().map(|(_, name)| name.to_owned())
    }

    #[test]
    fn of_several_wheels_the_closest_one_that_runs_is_taken() {
        let all = [
            "a-1-cp313-cp313-win_amd64.whl",
            "a-1-cp313-cp313-macosx_11_0_arm64.whl",
            "a-1-cp313-cp313-musllinux_1_2_aarch64.whl",
            "a-1-cp313-cp313t-manylinux_2_17_aarch64.manylinux2014_aarch64.whl",
            "a-1-cp313-cp313-manylinux_2_39_aarch64.whl",
            "a-1-cp313-cp313-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
            "a-1-cp312-cp312-manylinux_2_17_aarch64.whl",
            "a-1-cp39-abi3-manylinux_2_17_aarch64.whl",
            "a-1-py3-none-any.whl",
            "a-1-py2-none-any.whl",
            "a-1.tar.gz",
        ];
        let (arm, x86) = (Architecture::Arm64, Architecture::X86);
        assert_eq!(best(13, arm, &all).as_deref(), Some("a-1-cp39-abi3-manylinux_2_17_aarch64.whl"));
        assert_eq!(best(12, arm, &all).as_deref(), Some("a-1-cp312-cp312-manylinux_2_17_aarch64.whl"));
        assert_eq!(
            best(13, x86, &all).as_deref(),
            Some("a-1-cp313-cp313-manylinux_2_17_x86_64.manylinux2014_x86_64.whl")
        );
        assert_eq!(best(8, arm, &all).as_deref(), Some("a-1-py3-none-any.whl"));
        assert_eq!(best(11, arm, &["a-1-cp311-cp311-manylinux_2_28_aarch64.whl"]), None, "glibc of Amazon Linux 2");
        let two = ["a-1-cp313-cp313-manylinux_2_17_aarch64.whl", "a-1-cp313-cp313-manylinux_2_28_aarch64.whl"];
        assert_eq!(best(13, arm, &two).as_deref(), Some(two[1]));
        assert_eq!(best(13, arm, &["a-1-py2.py3-none-any.whl"]).as_deref(), Some("a-1-py2.py3-none-any.whl"));
        assert_eq!(best(13, arm, &["a-1-py314-none-any.whl"]), None);
    }

    #[test]
    fn metadata_is_read_and_the_description_is_not() {
        let text = "Metadata-Version: 2.1\nName: a\nRequires-Python: >=3.8\nRequires-Dist: b (>=1)\n\
                    Requires-Dist: c[d]>=2; extra == 'x'\n\nRequires-Dist: not-me\n";
        let (dist, python) = read_metadata(text).unwrap();
        assert_eq!(dist.len(), 2);
        assert!(python.unwrap().contains(&Version::new([3, 13])));
        assert!(read_metadata("Requires-Dist: !!!\n").is_err());
    }

    #[test]
    fn a_wheel_is_laid_out_as_an_installer_would() {
        let path = |path: &str| installed(&path.split('/').collect::<Vec<_>>());
        assert_eq!(path("six.py").as_deref(), Some("six.py"));
        assert_eq!(path("six-1.0.data/purelib/six/a.py").as_deref(), Some("six/a.py"));
        assert_eq!(path("six-1.0.data/scripts/run").as_deref(), Some("bin/run"));
        assert_eq!(path("six-1.0.data/headers/six.h"), None);
    }
}
