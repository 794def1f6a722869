//! Which versions: of each package the newest that fits all that is known of it so far. There is no search: when a
//! later requirement does not fit a choice, everything begins again with that requirement known from the start; when
//! nothing fits all requirements, that is an error, and whoever wrote the template pins one of them.

use super::index::{File, files};
use super::wheel::{Fit, Python, Wheel, WheelName, unpack};
use crate::download::download;
use crate::failure::Failure;
use pep440_rs::{Operator, Version, VersionSpecifiers};
use pep508_rs::{ExtraName, MarkerEnvironment, PackageName, Requirement, VersionOrUrl};
use reqwest::Client;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use tracing::info;
use url::Url;

const PACKAGES_MAX: usize = 200;
const ROUNDS_MAX: usize = 20;

/// What is known of a package: what is required, and by whom.
#[derive(Default)]
struct Known {
    specifiers: Vec<(VersionSpecifiers, String)>,
}

impl Known {
    fn add(&mut self, specifiers: VersionSpecifiers, by: &str) {
        if !specifiers.is_empty() && self.specifiers.iter().all(|(known, _)| *known != specifiers) {
            self.specifiers.push((specifiers, by.to_owned()));
        }
    }

    fn allows(&self, version: &Version) -> bool {
        self.specifiers.iter().all(|(specifiers, _)| specifiers.contains(version))
    }

    /// Somebody asked for a version that is not final.
    fn names_a_prerelease(&self) -> bool {
        self.all().any(|specifier| specifier.version().any_prerelease())
    }

    /// Somebody asked for exactly this one.
    fn pins(&self, version: &Version) -> bool {
        let exact = |operator: &Operator| matches!(operator, Operator::Equal | Operator::ExactEqual);
        self.all().any(|specifier| exact(specifier.operator()) && specifier.version() == version)
    }

    fn all(&self) -> impl Iterator<Item = &pep440_rs::VersionSpecifier> {
        self.specifiers.iter().flat_map(|(specifiers, _)| specifiers.iter())
    }
}

impl std::fmt::Display for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all = self.specifiers.iter().map(|(specifiers, by)| format!("{specifiers} ({by})"));
        f.write_str(&all.collect::<Vec<_>>().join(" and "))
    }
}

/// A choice.
struct Pick {
    version: Version,
    file: String,
    extras: BTreeSet<ExtraName>,
}

/// A package of the layer.
pub(super) struct Resolved {
    pub(super) name: PackageName,
    pub(super) version: Version,
    pub(super) wheel: Wheel,
}

/// Looks things up once.
pub(super) struct Resolver<'a> {
    http: &'a Client,
    index: &'a Url,
    python: Python,
    markers: MarkerEnvironment,
    /// For all wheels, unpacked.
    bytes_left: usize,
    files: BTreeMap<PackageName, Vec<File>>,
    wheels: BTreeMap<String, Wheel>,
}

/// How a round ended.
enum Round {
    Done(BTreeMap<PackageName, Pick>),
    /// A choice did not fit what became known later.
    Again,
}

impl<'a> Resolver<'a> {
    pub(super) fn new(http: &'a Client, index: &'a Url, python: Python, bytes_max: usize) -> Result<Self, Failure> {
        let (files, wheels) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { http, index, python, markers: python.markers()?, bytes_left: bytes_max, files, wheels })
    }

    /// All packages that these need, and themselves.
    pub(super) async fn resolve(mut self, wanted: &[Requirement]) -> Result<Vec<Resolved>, Failure> {
        let mut learned = BTreeMap::new();
        for _ in 0..ROUNDS_MAX {
            let Round::Done(picks) = self.round(wanted, &mut learned).await? else { continue };
            let mut resolved = Vec::new();
            for (name, pick) in picks {
                info!(package = %name, version = %pick.version, file = pick.file, "chosen");
                let wheel = self.wheels.remove(&pick.file).ok_or_else(|| Failure::new(format!("{name} is lost")))?;
                resolved.push(Resolved { name, version: pick.version, wheel });
            }
            return Ok(resolved);
        }
        Err(Failure::new("the packages' requirements do not settle; pin more of them to a version"))
    }

    async fn round(
        &mut self,
        wanted: &[Requirement],
        learned: &mut BTreeMap<PackageName, Known>,
    ) -> Result<Round, Failure> {
        let mut picks: BTreeMap<PackageName, Pick> = BTreeMap::new();
        let mut queue: VecDeque<(Requirement, String)> = VecDeque::new();
        let applies = |requirement: &&Requirement| requirement.evaluate_markers(&self.markers, &[]);
        queue.extend(wanted.iter().filter(applies).map(|requirement| (requirement.clone(), "Packages".to_owned())));
        while let Some((requirement, by)) = queue.pop_front() {
            let name = requirement.name;
            let known = learned.entry(name.clone()).or_default();
            match requirement.version_or_url {
                Some(VersionOrUrl::VersionSpecifier(specifiers)) => known.add(specifiers, &by),
                Some(VersionOrUrl::Url(_)) => {
                    return Err(Failure::new(format!("{by} asks for {name} by URL; only an index can be used")));
                }
                None => {}
            }
            let new_extras: Vec<ExtraName> = match picks.get(&name) {
                Some(pick) if !known.allows(&pick.version) => return Ok(Round::Again),
                Some(pick) => requirement.extras.into_iter().filter(|extra| !pick.extras.contains(extra)).collect(),
                None if picks.len() >= PACKAGES_MAX => {
                    return Err(Failure::new(format!("more than {PACKAGES_MAX} packages are needed")));
                }
                None => requirement.extras,
            };
            let is_new = !picks.contains_key(&name);
            if is_new {
                let pick = self.pick(&name, &by, &learned[&name]).await?;
                picks.insert(name.clone(), pick);
            }
            let Some(pick) = picks.get_mut(&name) else { continue };
            if !is_new && new_extras.is_empty() {
                continue;
            }
            pick.extras.extend(new_extras);
            let Some(wheel) = self.wheels.get(&pick.file) else { continue };
            let extras: Vec<ExtraName> = pick.extras.iter().cloned().collect();
            let by = format!("{name} {}", pick.version);
            let needs = wheel.requires_dist.iter().filter(|needed| needed.evaluate_markers(&self.markers, &extras));
            queue.extend(needs.map(|needed| (needed.clone(), by.clone())));
        }
        Ok(Round::Done(picks))
    }

    /// The newest version that is allowed, and of it the wheel that fits best.
    async fn pick(&mut self, name: &PackageName, by: &str, known: &Known) -> Result<Pick, Failure> {
        if !self.files.contains_key(name) {
            let found = files(self.http, self.index, name)
                .await
                .map_err(|failure| failure.during(&format!("looking for {name}, which {by} asks for")))?;
            self.files.insert(name.clone(), found);
        }
        let of_package = &self.files[name];
        let best = choose(of_package, self.python, known).cloned();
        let Some(file) = best else { return Err(nothing_fits(of_package, self.python, name, by, known)) };
        if !self.wheels.contains_key(&file.name) {
            let wheel = self.fetch(&file).await?;
            let bytes: usize = wheel.files.values().map(Vec::len).sum();
            self.bytes_left = self.bytes_left.saturating_sub(bytes);
            self.wheels.insert(file.name.clone(), wheel);
        }
        let version = WheelName::parse(&file.name).map(|name| name.version);
        let version = version.ok_or_else(|| Failure::new(format!("{} is no wheel", file.name)))?;
        Ok(Pick { version, file: file.name, extras: BTreeSet::new() })
    }

    async fn fetch(&self, file: &File) -> Result<Wheel, Failure> {
        let wanted = file.sha256.clone();
        let wanted = wanted.ok_or_else(|| Failure::new(format!("the index has no sha256 for {}", file.name)))?;
        let bytes = download(self.http, &file.url, "*/*", self.bytes_left).await?.bytes;
        let (name, bytes_max) = (file.name.clone(), self.bytes_left);
        let unpacked = tokio::task::spawn_blocking(move || {
            let found = hex::encode(Sha256::digest(&bytes));
            if found != wanted {
                return Err(Failure::new(format!("{name} has the checksum {found}, and the index says {wanted}")));
            }
            unpack(&name, bytes, bytes_max)
        });
        let wheel = unpacked.await.map_err(|_panic| Failure::new(format!("unpacking {} panicked", file.name)))??;
        match &wheel.requires_python {
            Some(wanted) if !wanted.contains(&self.python.version()) => {
                Err(Failure::new(format!("{} is for Python {wanted}, though the index does not say so", file.name)))
            }
            _ => Ok(wheel),
        }
    }
}

/// The file to take, if any fits.
fn choose<'f>(files: &'f [File], python: Python, known: &Known) -> Option<&'f File> {
    let allowed = |version: &Version, yanked: bool| known.allows(version) && (!yanked || known.pins(version));
    let fitting: Vec<(Version, Fit, &File)> = files
        .iter()
        .filter(|file| runs(file, python))
        .filter_map(|file| {
            let name = WheelName::parse(&file.name)?;
            let fit = python.fits(&name)?;
            allowed(&name.version, file.yanked).then_some((name.version, fit, file))
        })
        .collect();
    let is_final = |version: &Version| !version.any_prerelease() || known.names_a_prerelease();
    let newest = fitting.iter().map(|(version, ..)| version).filter(|version| is_final(version)).max()?;
    let best = fitting.iter().filter(|(version, ..)| version == newest).min_by_key(|(_, fit, file)| (*fit, &file.name));
    best.map(|(.., file)| *file)
}

fn runs(file: &File, python: Python) -> bool {
    file.requires_python.as_ref().is_none_or(|wanted| wanted.as_ref().is_ok_and(|it| it.contains(&python.version())))
}

/// Says which of the reasons it is.
fn nothing_fits(files: &[File], python: Python, name: &PackageName, by: &str, known: &Known) -> Failure {
    let target = format!("Python 3.{} on {}", python.minor, python.architecture.name());
    if choose(files, python, &Known::default()).is_none() {
        let others = files.iter().any(|file| known.allows_file(file));
        let why = if others { ", only for others or as source" } else { "" };
        return Failure::new(format!("{name}, which {by} asks for, has no wheel for {target}{why}"));
    }
    Failure::new(format!(
        "no version of {name} with a wheel for {target} fits all that is required: {known}; pin one of the packages to \
         another version"
    ))
}

impl Known {
    fn allows_file(&self, file: &File) -> bool {
        WheelName::parse(&file.name).is_none_or(|name| self.allows(&name.version))
    }
}

#[cfg(test)]
mod tests {
    use super::super::wheel::Architecture;
    use super::*;
    use std::str::FromStr as _;

    fn file(name: &str, requires_python: &str, yanked: bool) -> File {
        let requires_python = (!requires_python.is_empty())
            .then(|| VersionSpecifiers::from_str(requires_python).map_err(|error| error.to_string()));
        let url = Url::parse("https://example.com/").unwrap();
        File { name: name.into(), url, sha256: None, requires_python, yanked }
    }

    fn chosen(required: &str) -> Option<String> {
        let files = [
            file("a-1.0-py3-none-any.whl", "", false),
            file("a-1.2-py3-none-any.whl", ">=3.8", false),
            file("a-1.3-py3-none-any.whl", "", true),
            file("a-1.4.tar.gz", "", false),
            file("a-1.5-cp312-cp312-manylinux2014_aarch64.whl", "", false),
            file("a-1.6-py3-none-any.whl", ">=3.14", false),
            file("a-1.7-py3-none-any.whl", "three", false),
            file("a-2.0rc1-py3-none-any.whl", "", false),
        ];
        let mut known = Known::default();
        if !required.is_empty() {
            known.add(VersionSpecifiers::from_str(required).unwrap(), "test");
        }
        let python = Python { minor: 13, architecture: Architecture::Arm64 };
        choose(&files, python, &known).map(|file| file.name.clone())
    }

    #[test]
    fn the_newest_version_that_fits_is_chosen() {
        assert_eq!(chosen("").as_deref(), Some("a-1.2-py3-none-any.whl"));
        assert_eq!(chosen("<1.2").as_deref(), Some("a-1.0-py3-none-any.whl"));
        assert_eq!(chosen("==1.3").as_deref(), Some("a-1.3-py3-none-any.whl"), "yanked, and pinned");
        assert_eq!(chosen(">=1.3"), None, "yanked, source only, another Python, or not final");
        assert_eq!(chosen(">=2.0rc1").as_deref(), Some("a-2.0rc1-py3-none-any.whl"));
    }
}
