//! The package index: the simple repository API, in JSON (PEP 691) or HTML (PEP 503).

use crate::download::{download, is_safe, shown};
use crate::failure::Failure;
use pep440_rs::VersionSpecifiers;
use pep508_rs::PackageName;
use quick_xml::escape::unescape;
use reqwest::Client;
use serde::Deserialize;
use serde_json::Value;
use std::str::FromStr as _;
use url::Url;

const ACCEPT: &str = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1";

/// Of one package's page; the longest ones have some megabytes.
const PAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A file of a package.
#[derive(Debug, Clone)]
pub(super) struct File {
    pub(super) name: String,
    pub(super) url: Url,
    /// Hexadecimal, in small letters.
    pub(super) sha256: Option<String>,
    /// None when it is not restricted; the error text when it cannot be read.
    pub(super) requires_python: Option<Result<VersionSpecifiers, String>>,
    pub(super) yanked: bool,
}

/// All files of a package.
pub(super) async fn files(http: &Client, index: &Url, package: &PackageName) -> Result<Vec<File>, Failure> {
    let mut url = index.clone();
    url.path_segments_mut()
        .map_err(|()| Failure::new("IndexUrl cannot have a path"))?
        .pop_if_empty()
        .push(package.as_ref())
        .push("");
    let page = download(http, &url, ACCEPT, PAGE_BYTES_MAX).await?;
    let failed = |what: String| Failure::new(format!("the index's page {}: {what}", shown(&url)));
    let files = if page.content_type.contains("json") {
        from_json(&page.bytes, &page.url).map_err(failed)?
    } else {
        from_html(&String::from_utf8_lossy(&page.bytes), &page.url).map_err(failed)?
    };
    Ok(files.into_iter().map(|file| with_password(file, index)).filter(|file| is_safe(&file.url)).collect())
}

/// Files on the index's own host want its password too.
fn with_password(mut file: File, index: &Url) -> File {
    if file.url.origin() == index.origin() && file.url.username().is_empty() {
        // Only of a URL that cannot have one.
        let _impossible = file.url.set_username(index.username());
        let _impossible = file.url.set_password(index.password());
    }
    file
}

#[derive(Deserialize)]
struct Page {
    files: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    filename: String,
    url: String,
    #[serde(default)]
    hashes: Hashes,
    #[serde(rename = "requires-python")]
    requires_python: Option<String>,
    /// `false`, or true, or why.
    #[serde(default)]
    yanked: Value,
}

#[derive(Deserialize, Default)]
struct Hashes {
    sha256: Option<String>,
}

fn requires(text: &str) -> Option<Result<VersionSpecifiers, String>> {
    (!text.trim().is_empty()).then(|| VersionSpecifiers::from_str(text).map_err(|error| error.to_string()))
}

fn from_json(bytes: &[u8], base: &Url) -> Result<Vec<File>, String> {
    let page: Page = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let files = page.files.into_iter().filter_map(|entry| {
        Some(File {
            url: base.join(&entry.url).ok()?,
            name: entry.filename,
            sha256: entry.hashes.sha256.map(|hash| hash.to_ascii_lowercase()),
            requires_python: entry.requires_python.as_deref().and_then(requires),
            yanked: !matches!(entry.yanked, Value::Null | Value::Bool(false)),
        })
    });
    Ok(files.collect())
}

fn from_html(text: &str, base: &Url) -> Result<Vec<File>, String> {
    let page = tl::parse(text, tl::ParserOptions::default()).map_err(|error| error.to_string())?;
    let parser = page.parser();
    let mut files = Vec::new();
    for node in page.nodes() {
        let Some(tag) = node.as_tag().filter(|tag| tag.name().as_utf8_str().eq_ignore_ascii_case("a")) else {
            continue;
        };
        let attribute = |name: &str| {
            let value = tag.attributes().get(name)?;
            let value = value.map(|value| value.as_utf8_str().into_owned()).unwrap_or_default();
            Some(unescape(&value).map(|value| value.into_owned()).unwrap_or(value))
        };
        let Some(mut url) = attribute("href").and_then(|href| base.join(&href).ok()) else { continue };
        let sha256 = url.fragment().and_then(|fragment| fragment.strip_prefix("sha256=")).map(str::to_ascii_lowercase);
        url.set_fragment(None);
        files.push(File {
            name: tag.inner_text(parser).trim().to_owned(),
            url,
            sha256,
            requires_python: attribute("data-requires-python").as_deref().and_then(requires),
            yanked: attribute("data-yanked").is_some(),
        });
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_page_say_the_same() {
        let base = Url::parse("https://index.example.com/simple/six/").unwrap();
        let hash = "AB".repeat(32);
        let json = format!(
            r#"{{"meta": {{}}, "name": "six", "files": [
                {{"filename": "six-1.0-py3-none-any.whl", "url": "../../files/six-1.0-py3-none-any.whl",
                  "hashes": {{"sha256": "{hash}"}}, "requires-python": ">=3.8", "yanked": false}},
                {{"filename": "six-0.9.tar.gz", "url": "https://files.example.com/six-0.9.tar.gz", "hashes": {{}},
                  "yanked": "broken"}}]}}"#
        );
        let html = format!(
            r#"<!DOCTYPE html><html><body><h1>six</h1>
            <a href="../../files/six-1.0-py3-none-any.whl#sha256={hash}" data-requires-python="&gt;=3.8">six-1.0-py3-none-any.whl</a><br/>
            <a href="https://files.example.com/six-0.9.tar.gz" data-yanked="">six-0.9.tar.gz</a></body></html>"#
        );
        for files in [from_json(json.as_bytes(), &base).unwrap(), from_html(&html, &base).unwrap()] {
            assert_eq!(files.len(), 2);
            assert_eq!(files[0].name, "six-1.0-py3-none-any.whl");
            assert_eq!(files[0].url.as_str(), "https://index.example.com/files/six-1.0-py3-none-any.whl");
            assert_eq!(files[0].sha256.as_deref(), Some("ab".repeat(32).as_str()));
            let python = pep440_rs::Version::from_str("3.13.0").unwrap();
            assert!(files[0].requires_python.as_ref().unwrap().as_ref().unwrap().contains(&python));
            assert!(!files[0].yanked && files[1].yanked && files[1].sha256.is_none());
        }
    }

    #[test]
    fn a_password_of_the_index_goes_to_its_own_host_only() {
        let index = Url::parse("https://user:hush@index.example.com/simple/").unwrap();
        let file = |url: &str| File {
            name: "a".into(),
            url: Url::parse(url).unwrap(),
            sha256: None,
            requires_python: None,
            yanked: false,
        };
        assert_eq!(with_password(file("https://index.example.com/a"), &index).url.password(), Some("hush"));
        assert_eq!(with_password(file("https://files.example.com/a"), &index).url.password(), None);
    }
}
