//! IAM of the lab: roles with policies, the question whether they allow a call, and the simulation of it (query protocol
//! of 2010-05-08).
//!
//! A client is the role that its access key names; a key without a role is the user `lab`, who may do everything.
//! Conditions are taken as met, and only identity policies are looked at.

use super::wire::{Outcome, Refusal, Reply, document, lock, request_id, tag, text, xml_error};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Mutex;

const NAMESPACE: &str = "https://iam.amazonaws.com/doc/2010-05-08/";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Policy {
    statement: Vec<Statement>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Statement {
    effect: Effect,
    action: OneOrMore,
    resource: OneOrMore,
}

#[derive(Deserialize, PartialEq, Eq, Clone, Copy)]
enum Effect {
    Allow,
    Deny,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl OneOrMore {
    fn meets(&self, text: &str) -> bool {
        match self {
            Self::One(pattern) => is_like(pattern, text),
            Self::More(patterns) => patterns.iter().any(|pattern| is_like(pattern, text)),
        }
    }
}

/// Is it as the pattern says, with `*` for anything and `?` for one character?
fn is_like(pattern: &str, text: &str) -> bool {
    match (pattern.chars().next(), text.chars().next()) {
        (None, None) => true,
        (Some('*'), _) => {
            let rest = &pattern[1..];
            text.char_indices().map(|(at, _)| at).chain([text.len()]).any(|at| is_like(rest, &text[at..]))
        }
        (Some(wanted), Some(found)) if wanted == '?' || wanted == found => {
            is_like(&pattern[wanted.len_utf8()..], &text[found.len_utf8()..])
        }
        _ => false,
    }
}

/// The roles, and the policies of each.
pub(super) struct Iam {
    account: String,
    roles: Mutex<BTreeMap<String, BTreeMap<String, Policy>>>,
}

impl Iam {
    pub(super) fn new(account: &str) -> Self {
        Self { account: account.to_owned(), roles: Mutex::default() }
    }

    /// Gives the role a policy; makes the role if there is none.
    pub(super) fn put_role_policy(&self, role: &str, name: &str, document: &str) -> Outcome<()> {
        let policy = serde_json::from_str(document)
            .map_err(|error| Refusal::new("MalformedPolicyDocument", format!("Syntax errors in policy: {error}")))?;
        lock(&self.roles).entry(role.to_owned()).or_default().insert(name.to_owned(), policy);
        Ok(())
    }

    pub(super) fn is_role(&self, name: &str) -> bool {
        lock(&self.roles).contains_key(name)
    }

    /// May whoever holds this key do it on this resource?
    pub(super) fn allows(&self, key: &str, action: &str, resource: &str) -> bool {
        !self.is_role(key) || self.decide(key, action, resource) == "allowed"
    }

    fn decide(&self, role: &str, action: &str, resource: &str) -> &'static str {
        let roles = lock(&self.roles);
        let statements = roles.get(role).into_iter().flat_map(BTreeMap::values).flat_map(|policy| &policy.statement);
        let effects: Vec<Effect> = statements
            .filter(|statement| statement.action.meets(action) && statement.resource.meets(resource))
            .map(|statement| statement.effect)
            .collect();
        match (effects.contains(&Effect::Deny), effects.contains(&Effect::Allow)) {
            (true, _) => "explicitDeny",
            (false, true) => "allowed",
            (false, false) => "implicitDeny",
        }
    }

    pub(super) fn call(&self, action: &str, body: &[u8]) -> Reply {
        let parameters: BTreeMap<String, String> =
            form_urlencoded::parse(body).map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
        let done = match action {
            "CreateRole" => self.create(&parameters),
            "PutRolePolicy" => self.put(&parameters),
            "SimulatePrincipalPolicy" => self.simulate(&parameters),
            other => Err(Refusal::new("InvalidAction", format!("the lab's IAM has no action '{other}'"))),
        };
        match done {
            Ok(result) => {
                let metadata = tag("ResponseMetadata", text("RequestId", request_id()));
                let content = result + &metadata;
                Reply::new(200, "text/xml", document(&format!("{action}Response"), NAMESPACE, content))
            }
            Err(refusal) => xml_error(NAMESPACE, &refusal),
        }
    }

    fn create(&self, parameters: &BTreeMap<String, String>) -> Outcome<String> {
        let name = needed(parameters, "RoleName")?;
        needed(parameters, "AssumeRolePolicyDocument")?;
        lock(&self.roles).entry(name.to_owned()).or_default();
        let role = text("Path", "/")
            + &text("RoleName", name)
            + &text("RoleId", "AROALAB")
            + &text("Arn", format!("arn:aws:iam::{}:role/{name}", self.account))
            + &text("CreateDate", "2026-01-01T00:00:00Z");
        Ok(tag("CreateRoleResult", tag("Role", role)))
    }

    fn put(&self, parameters: &BTreeMap<String, String>) -> Outcome<String> {
        let [role, name, document] = ["RoleName", "PolicyName", "PolicyDocument"].map(|name| needed(parameters, name));
        self.put_role_policy(role?, name?, document?)?;
        Ok(String::new())
    }

    fn simulate(&self, parameters: &BTreeMap<String, String>) -> Outcome<String> {
        let principal = needed(parameters, "PolicySourceArn")?;
        let role = principal.rsplit('/').next().filter(|role| self.is_role(role));
        let role = role.ok_or_else(|| {
            let message = format!("The role {principal} cannot be found.");
            Refusal::new("NoSuchEntity", message).status(404)
        })?;
        let listed = |list: &str| {
            let prefix = format!("{list}.member.");
            let members = parameters.iter().filter(|(name, _)| name.starts_with(&prefix));
            members.map(|(_, value)| value.clone()).collect::<Vec<_>>()
        };
        let mut resources = listed("ResourceArns");
        if resources.is_empty() {
            resources.push("*".to_owned());
        }
        let mut results = String::new();
        for action in listed("ActionNames") {
            for resource in &resources {
                let result = text("EvalActionName", &action)
                    + &text("EvalResourceName", resource)
                    + &text("EvalDecision", self.decide(role, &action, resource))
                    + &tag("MatchedStatements", "")
                    + &tag("MissingContextValues", "");
                results += &tag("member", result);
            }
        }
        let result = tag("EvaluationResults", results) + &text("IsTruncated", false);
        Ok(tag("SimulatePrincipalPolicyResult", result))
    }
}

fn needed<'a>(parameters: &'a BTreeMap<String, String>, name: &str) -> Outcome<&'a str> {
    let missing = || Refusal::new("ValidationError", format!("{name} is missing"));
    parameters.get(name).map(String::as_str).ok_or_else(missing)
}

/// What a call is about, as an ARN: of the resource that it names, or `*`.
pub(super) fn resource(service: &str, action: &str, region: &str, account: &str, path: &str, body: &[u8]) -> String {
    let json: Value = serde_json::from_slice(body).unwrap_or_default();
    let field = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
    let form = |name: &str| {
        let found = form_urlencoded::parse(body).find(|(key, _)| key == name);
        found.map(|(_, value)| value.into_owned()).unwrap_or_default()
    };
    let arn = |resource: String| format!("arn:aws:{service}:{region}:{account}:{resource}");
    match (service, action) {
        ("dynamodb", _) => match field("IndexName").as_str() {
            "" => arn(format!("table/{}", field("TableName"))),
            index => arn(format!("table/{}/index/{index}", field("TableName"))),
        },
        ("sqs", "GetQueueUrl" | "CreateQueue") => arn(field("QueueName")),
        ("sqs", _) => arn(field("QueueUrl").rsplit('/').next().unwrap_or_default().to_owned()),
        ("events", "PutEvents") => {
            let bus = json["Entries"][0]["EventBusName"].as_str().unwrap_or("default").to_owned();
            arn(format!("event-bus/{bus}"))
        }
        ("events", "CreateEventBus" | "DescribeEventBus") => arn(format!("event-bus/{}", field("Name"))),
        ("events", "PutRule" | "PutTargets") => {
            let rule = field(if action == "PutRule" { "Name" } else { "Rule" });
            match field("EventBusName").as_str() {
                "" | "default" => arn(format!("rule/{rule}")),
                bus => arn(format!("rule/{bus}/{rule}")),
            }
        }
        ("rds", "FailoverGlobalCluster" | "SwitchoverGlobalCluster") => {
            format!("arn:aws:rds::{account}:global-cluster:{}", form("GlobalClusterIdentifier"))
        }
        ("rds", "FailoverDBCluster") => {
            let id = form("DBClusterIdentifier");
            if id.starts_with("arn:") { id } else { arn(format!("cluster:{id}")) }
        }
        ("rds", "DescribeDBClusterParameters") => arn(format!("cluster-pg:{}", form("DBClusterParameterGroupName"))),
        ("route53", "ListResourceRecordSets" | "ChangeResourceRecordSets" | "GetChange") => {
            let mut parts = path.trim_start_matches("/2013-04-01/").split('/');
            let (kind, id) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            format!("arn:aws:route53:::{kind}/{id}")
        }
        ("s3", _) => format!("arn:aws:s3:::{}", path.trim_start_matches('/')),
        ("iam", _) => form("PolicySourceArn"),
        _ => "*".to_owned(),
    }
}

/// The IAM action of a call.
pub(super) fn action(service: &str, action: &str) -> String {
    let service = match service {
        "monitoring" => "cloudwatch",
        other => other,
    };
    format!("{service}:{}", action.strip_suffix("Batch").unwrap_or(action))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_meet_what_they_say() {
        for (pattern, text, meets) in [
            ("*", "", true),
            ("*", "arn:aws:sqs:r:1:q", true),
            ("arn:aws:iam::1:role/*", "arn:aws:iam::1:role/a/b", true),
            ("table/t/index/*", "table/t", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("a", "ab", false),
            ("a*c*e", "abcde", true),
        ] {
            assert_eq!(is_like(pattern, text), meets, "{pattern} {text}");
        }
    }

    #[test]
    fn a_role_may_do_what_a_statement_allows_and_none_denies() {
        let iam = Iam::new("000000000000");
        assert!(iam.allows("anybody", "sqs:SendMessage", "arn:q"), "a key without a role may do everything");
        let policy = r#"{"Version":"2012-10-17","Statement":[
            {"Effect":"Allow","Action":["sqs:SendMessage","sqs:ReceiveMessage"],"Resource":"arn:*"},
            {"Effect":"Deny","Action":"sqs:SendMessage","Resource":["arn:secret"]}]}"#;
        iam.put_role_policy("role", "p", policy).expect("well-formed");
        assert!(iam.allows("role", "sqs:SendMessage", "arn:q"));
        assert!(!iam.allows("role", "sqs:SendMessage", "arn:secret"));
        assert!(iam.allows("role", "sqs:ReceiveMessage", "arn:secret"));
        assert!(!iam.allows("role", "sqs:DeleteQueue", "arn:q"));
        assert!(iam.put_role_policy("role", "p", "{").is_err());
    }
}
