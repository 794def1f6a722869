//! `Custom::RegionExports`: what stacks of another region export, for `Fn::GetAtt`.

use super::{Job, Resource, not_empty};
use crate::failure::Failure;
use crate::protocol::Data;
use serde::Deserialize;

const CLOUDFORMATION: (&str, &str) = ("cloudformation", "2010-05-15");

/// Pages of a hundred.
const PAGES_MAX: u32 = 1_000;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct RegionExports {
    region: String,
    prefix: Option<String>,
    names: Option<Vec<String>>,
}

impl Resource for RegionExports {
    const TYPE: &'static str = "Custom::RegionExports";

    fn check(&self) -> Result<(), Failure> {
        not_empty("Region", &self.region)?;
        if self.prefix.is_some() == self.names.is_some() {
            return Err(Failure::new("one of Prefix and Names is needed, and not both"));
        }
        Ok(())
    }

    fn identity(&self) -> Vec<String> {
        vec![self.region.clone()]
    }

    async fn put(&self, _old: Option<&Self>, job: &Job) -> Result<Data, Failure> {
        let mut found = Data::new();
        let mut next = None;
        for _ in 0..PAGES_MAX {
            let parameters: Vec<_> = next.map(|token| ("NextToken".to_owned(), token)).into_iter().collect();
            let page = job.aws.query(CLOUDFORMATION, &self.region, "ListExports", &parameters).await?;
            let page: ListExports = quick_xml::de::from_str(&page)
                .map_err(|error| Failure::new(format!("the answer to ListExports cannot be read: {error}")))?;
            let wanted = page.result.exports.member.into_iter();
            found.extend(wanted.filter_map(|export| Some((self.told_as(&export.name)?.to_owned(), export.value))));
            next = page.result.next_token.filter(|token| !token.is_empty());
            if next.is_none() {
                return self.complete(found);
            }
        }
        Err(Failure::new(format!("{} has too many exports", self.region)))
    }

    async fn remove(&self, _job: &Job) -> Result<(), Failure> {
        Ok(())
    }
}

impl RegionExports {
    /// The name that an export has in the answer, if it is wanted: what comes after the prefix, so that a template need
    /// not spell a stack's name in `Fn::GetAtt`.
    fn told_as<'a>(&self, name: &'a str) -> Option<&'a str> {
        match &self.prefix {
            Some(prefix) => name.strip_prefix(prefix.as_str()).filter(|rest| !rest.is_empty()),
            None => self.names.iter().flatten().any(|wanted| wanted == name).then_some(name),
        }
    }

    fn complete(&self, found: Data) -> Result<Data, Failure> {
        let names = self.names.iter().flatten();
        let missing: Vec<&str> = names.map(String::as_str).filter(|name| !found.contains_key(*name)).collect();
        if missing.is_empty() {
            return Ok(found);
        }
        Err(Failure::new(format!("no stack in {} exports {}", self.region, missing.join(", "))))
    }
}

#[derive(Deserialize)]
struct ListExports {
    #[serde(rename = "ListExportsResult")]
    result: Exports,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Exports {
    #[serde(default)]
    exports: Members,
    next_token: Option<String>,
}

#[derive(Deserialize, Default)]
struct Members {
    #[serde(default)]
    member: Vec<Export>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Export {
    name: String,
    #[serde(default)]
    value: String,
}
