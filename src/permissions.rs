//! What each role may do in AWS, and nothing else: the table behind `aurora-failover iam-policy`, which `doctor`
//! simulates, the lab enforces, and the CloudFormation roles are held to.
//!
//! A resource is `*` only where AWS offers nothing narrower for the action.

use crate::config::{PasswordSource, Settings};
use clap::ValueEnum;
use serde_json::{Value, json};
use statemachine::{Region, RouteBy};

/// Who runs a part of the product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// `canary`.
    Canary,
    /// `serve`.
    Controller,
    /// A human: `status`, `plan`, `doctor`, `override`, `drill`, `dlq`.
    Operator,
    /// A human who may also give orders past EventBridge: `override --direct`.
    BreakGlass,
    /// What `serve --dashboard` needs beside what the controller may: to read the history, and to give orders.
    Dashboard,
    /// A human who only reads: `history`, `episodes`, `explain`, `audit`, `replay`.
    Auditor,
    /// `init`.
    Deployer,
}

impl Role {
    /// Its name, as on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Canary => "canary",
            Self::Controller => "controller",
            Self::Operator => "operator",
            Self::BreakGlass => "break-glass",
            Self::Dashboard => "dashboard",
            Self::Auditor => "auditor",
            Self::Deployer => "deployer",
        }
    }
}

/// Actions on resources, under a condition.
#[derive(Debug, Clone, PartialEq)]
pub struct Statement {
    /// What it is for.
    pub sid: &'static str,
    /// IAM actions, without wildcards.
    pub actions: Vec<&'static str>,
    /// ARNs.
    pub resources: Vec<String>,
    /// As IAM writes it.
    pub condition: Option<Value>,
}

fn statement(sid: &'static str, actions: &[&'static str], resources: impl IntoIterator<Item = String>) -> Statement {
    Statement { sid, actions: actions.to_vec(), resources: resources.into_iter().collect(), condition: None }
}

/// AWS offers nothing narrower.
fn anything() -> [String; 1] {
    ["*".to_owned()]
}

/// The role's statements.
#[must_use]
pub fn statements(role: Role, settings: &Settings) -> Vec<Statement> {
    let names = Names { settings };
    let mut all = match role {
        Role::Canary => {
            let mut all = vec![
                statement("Publish", &["events:PutEvents"], [names.bus(&settings.event_bus)]),
                statement("Lag", &["cloudwatch:GetMetricData"], anything()),
            ];
            all.extend(names.database());
            all
        }
        Role::Controller => {
            let mut all = vec![
                statement("Record", &["dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:UpdateItem"], [names.table()]),
                statement(
                    "Receive",
                    &["sqs:GetQueueUrl", "sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility"],
                    [names.queue(&settings.queue), names.queue(&settings.operator_queue)],
                ),
                statement(
                    "DeadLetters",
                    &["sqs:GetQueueUrl", "sqs:SendMessage"],
                    [names.queue(&settings.dead_letter_queue)],
                ),
                statement("Announce", &["events:PutEvents"], [names.bus(&settings.event_bus)]),
                names.look_at_rds(),
                statement(
                    "Promote",
                    &["rds:FailoverGlobalCluster", "rds:SwitchoverGlobalCluster"],
                    names.global_clusters().chain(names.members()),
                ),
                statement("FailOverInRegion", &["rds:FailoverDBCluster"], names.members()),
            ];
            all.extend(names.move_names());
            all.extend(names.database());
            all
        }
        Role::Operator | Role::BreakGlass => {
            let mut all = vec![
                statement("Read", &["dynamodb:GetItem", "dynamodb:Query"], names.table_and_indexes()),
                statement("Order", &["events:PutEvents"], [names.bus(&settings.operator_bus)]),
                names.look_at_rds(),
                statement(
                    "Queues",
                    &["sqs:GetQueueUrl"],
                    [&settings.queue, &settings.operator_queue, &settings.dead_letter_queue].map(|q| names.queue(q)),
                ),
                statement(
                    "DeadLetters",
                    &["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility"],
                    [names.queue(&settings.dead_letter_queue)],
                ),
                statement(
                    "Redrive",
                    &["sqs:SendMessage"],
                    [names.queue(&settings.queue), names.queue(&settings.operator_queue)],
                ),
                statement(
                    "Simulate",
                    &["iam:SimulatePrincipalPolicy"],
                    [format!("arn:aws:iam::{}:role/*", names.account())],
                ),
                statement("Preflight", &["dynamodb:DescribeTable", "dynamodb:DescribeTimeToLive"], [names.table()]),
                statement(
                    "PreflightBuses",
                    &["events:DescribeEventBus"],
                    [names.bus(&settings.event_bus), names.bus(&settings.operator_bus)],
                ),
                statement(
                    "PreflightQueues",
                    &["sqs:GetQueueAttributes"],
                    [names.queue(&settings.queue), names.queue(&settings.operator_queue)],
                ),
                statement("PreflightParameters", &["rds:DescribeDBClusterParameters"], names.parameter_groups()),
            ];
            all.extend(names.look_at_names());
            all.extend(names.database());
            if role == Role::BreakGlass {
                all.push(statement("OrderDirectly", &["dynamodb:PutItem", "dynamodb:UpdateItem"], [names.table()]));
            }
            all
        }
        Role::Dashboard => vec![
            statement("Read", &["dynamodb:GetItem", "dynamodb:Query"], names.table_and_indexes()),
            statement("Order", &["events:PutEvents"], [names.bus(&settings.operator_bus)]),
        ],
        Role::Auditor => {
            vec![statement("Read", &["dynamodb:GetItem", "dynamodb:Query"], names.table_and_indexes())]
        }
        Role::Deployer => {
            let queues = [&settings.queue, &settings.operator_queue, &settings.dead_letter_queue];
            let buses = [&settings.event_bus, &settings.operator_bus];
            vec![
                statement("Table", &["dynamodb:CreateTable", "dynamodb:DescribeTable"], [names.table()]),
                statement(
                    "Queues",
                    &["sqs:CreateQueue", "sqs:GetQueueAttributes", "sqs:SetQueueAttributes"],
                    queues.map(|queue| names.queue(queue)),
                ),
                statement("Buses", &["events:CreateEventBus"], buses.map(|bus| names.bus(bus))),
                statement("Rules", &["events:PutRule", "events:PutTargets"], names.rules()),
            ]
        }
    };
    all.retain(|statement| !statement.resources.is_empty());
    all
}

/// The role's policy, as IAM reads it.
#[must_use]
pub fn policy(role: Role, settings: &Settings) -> Value {
    let statements = statements(role, settings).into_iter().map(|statement| {
        let mut written = json!({
            "Sid": statement.sid,
            "Effect": "Allow",
            "Action": statement.actions,
            "Resource": statement.resources,
        });
        if let Some(condition) = statement.condition {
            written["Condition"] = condition;
        }
        written
    });
    json!({ "Version": "2012-10-17", "Statement": statements.collect::<Vec<_>>() })
}

/// ARNs of what the configuration names.
struct Names<'a> {
    settings: &'a Settings,
}

impl Names<'_> {
    fn account(&self) -> &str {
        self.settings.clusters.first().map_or("", |cluster| cluster.config.members[0].arn.account())
    }

    fn here(&self, service: &str, resource: &str) -> String {
        format!("arn:aws:{service}:{}:{}:{resource}", self.settings.region, self.account())
    }

    fn table(&self) -> String {
        self.here("dynamodb", &format!("table/{}", self.settings.table))
    }

    fn table_and_indexes(&self) -> [String; 2] {
        [self.table(), format!("{}/index/*", self.table())]
    }

    fn queue(&self, name: &str) -> String {
        self.here("sqs", name)
    }

    fn bus(&self, name: &str) -> String {
        self.here("events", &format!("event-bus/{name}"))
    }

    /// Rules of a bus other than the default one have the bus in their ARN.
    fn rules(&self) -> Vec<String> {
        let (bus, operator_bus) = (&self.settings.event_bus, &self.settings.operator_bus);
        [format!("rule/{bus}/*"), format!("rule/{operator_bus}/*"), format!("rule/{bus}-*")]
            .map(|rule| self.here("events", &rule))
            .to_vec()
    }

    fn members(&self) -> impl Iterator<Item = String> {
        let members = self.settings.clusters.iter().flat_map(|cluster| &cluster.config.members);
        members.map(|member| member.arn.to_string())
    }

    fn global_clusters(&self) -> impl Iterator<Item = String> {
        self.settings
            .clusters
            .iter()
            .map(|cluster| format!("arn:aws:rds::{}:global-cluster:{}", self.account(), cluster.id))
    }

    /// Their names are not in the configuration.
    fn parameter_groups(&self) -> Vec<String> {
        let regions = self.regions().into_iter();
        regions.map(|region| format!("arn:aws:rds:{region}:{}:cluster-pg:*", self.account())).collect()
    }

    fn regions(&self) -> Vec<Region> {
        let members = self.settings.clusters.iter().flat_map(|cluster| &cluster.config.members);
        let mut regions: Vec<Region> = members.map(|member| member.region.clone()).collect();
        regions.sort();
        regions.dedup();
        regions
    }

    /// Lists: AWS knows no narrower resource.
    fn look_at_rds(&self) -> Statement {
        statement("LookAtRds", &["rds:DescribeGlobalClusters", "rds:DescribeDBClusters"], anything())
    }

    fn zones(&self, wanted: impl Fn(&RouteBy) -> bool) -> (Vec<String>, Vec<String>) {
        let routes = self.settings.clusters.iter().flat_map(|cluster| &cluster.config.routes);
        let routes: Vec<_> = routes.filter(|route| wanted(&route.by)).collect();
        let mut zones: Vec<String> =
            routes.iter().map(|route| format!("arn:aws:route53:::hostedzone/{}", route.zone)).collect();
        zones.sort();
        zones.dedup();
        (zones, routes.iter().map(|route| route.name.trim_end_matches('.').to_owned()).collect())
    }

    fn look_at_names(&self) -> Vec<Statement> {
        let (zones, _) = self.zones(|by| *by == RouteBy::Record);
        let mut all = vec![statement("LookAtRecords", &["route53:ListResourceRecordSets"], zones)];
        all.push(statement("LookAtSignposts", &["s3:GetObject"], self.signposts()));
        all.push(statement(
            "LookAtRoutingControls",
            &["route53-recovery-cluster:GetRoutingControlState"],
            self.routing_controls(),
        ));
        all
    }

    fn move_names(&self) -> Vec<Statement> {
        let (zones, names) = self.zones(|by| *by == RouteBy::Record);
        let changes: &[&str] = if zones.is_empty() { &[] } else { &["arn:aws:route53:::change/*"] };
        let mut change = statement("ChangeRecords", &["route53:ChangeResourceRecordSets"], zones);
        change.condition = Some(json!({ "ForAllValues:StringEquals": {
            "route53:ChangeResourceRecordSetsNormalizedRecordNames": names,
            "route53:ChangeResourceRecordSetsRecordTypes": ["CNAME"],
            "route53:ChangeResourceRecordSetsActions": ["CREATE", "DELETE"],
        }}));
        let mut all = self.look_at_names();
        all.push(change);
        all.push(statement("FollowChanges", &["route53:GetChange"], changes.iter().map(|arn| (*arn).to_owned())));
        all.push(statement("ChangeSignposts", &["s3:PutObject"], self.signposts()));
        all.push(statement(
            "ChangeRoutingControls",
            &["route53-recovery-cluster:UpdateRoutingControlStates"],
            self.routing_controls(),
        ));
        all
    }

    fn signposts(&self) -> Vec<String> {
        let routes = self.settings.clusters.iter().flat_map(|cluster| &cluster.config.routes);
        let objects = routes.filter_map(|route| match &route.by {
            RouteBy::HealthCheck { bucket, key, .. } => Some(format!("arn:aws:s3:::{bucket}/{key}")),
            RouteBy::Record | RouteBy::Arc { .. } => None,
        });
        objects.collect()
    }

    fn routing_controls(&self) -> Vec<String> {
        let routes = self.settings.clusters.iter().flat_map(|cluster| &cluster.config.routes);
        let controls = routes.filter_map(|route| match &route.by {
            RouteBy::Arc { controls, .. } => Some(controls.values().map(ToString::to_string)),
            RouteBy::Record | RouteBy::HealthCheck { .. } => None,
        });
        controls.flatten().collect()
    }

    /// What the password takes.
    fn database(&self) -> Option<Statement> {
        match &self.settings.database.password {
            PasswordSource::Secret(arn) => {
                Some(statement("Password", &["secretsmanager:GetSecretValue"], [arn.to_string()]))
            }
            // The ids of the clusters' resources are not in the configuration.
            PasswordSource::IamToken => {
                let user = &self.settings.database.user;
                let users = self.regions().into_iter();
                let users = users.map(|region| format!("arn:aws:rds-db:{region}:{}:dbuser:*/{user}", self.account()));
                Some(statement("Connect", &["rds-db:connect"], users))
            }
            PasswordSource::Environment(_) | PasswordSource::File(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use std::collections::BTreeSet;
    use std::path::Path;

    const EVERYTHING: &str = "
        [[cluster.route]]
        name = \"signpost.example.com\"
        by = \"health-check\"
        bucket = { region = \"eu-west-1\", name = \"signpost\", key = \"orders.json\" }
        [[cluster.route]]
        name = \"arc.example.com\"
        by = \"arc\"
        controls = { us-east-2 = \"arn:aws:route53-recovery-control::1:a\", us-west-2 = \"arn:aws:route53-recovery-control::1:b\" }
        [[cluster.route.endpoint]]
        region = \"us-west-2\"
        url = \"https://example.com/v1\"
    ";

    /// The example with every kind of route, and each kind of password that takes permissions.
    fn settings() -> Vec<Settings> {
        let example = include_str!("../aurora-failover.example.toml");
        let example = example.replace("[cluster.policy]", &format!("{EVERYTHING}\n[cluster.policy]"));
        let passwords = ["password-secret = \"arn:aws:secretsmanager:us-west-2:1:secret:s\"", "iam-token = true"];
        let all = passwords.map(|password| {
            let text = example.replace("user = \"failover\"", &format!("user = \"failover\"\n{password}"));
            config::parse(&text, "example", |_| None).expect("it is valid")
        });
        all.to_vec()
    }

    /// Snake case of each operation of an SDK that the sources call.
    fn called() -> BTreeSet<String> {
        let mut called = BTreeSet::new();
        let mut directories = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).expect("sources").flatten() {
                let path = entry.path();
                if path.is_dir() {
                    directories.push(path);
                    continue;
                }
                let text = std::fs::read_to_string(&path).expect("text");
                if text.contains("aws_sdk_") {
                    called.extend(operations(&text));
                }
            }
        }
        called
    }

    /// Calls without arguments whose names begin as those of operations do.
    fn operations(text: &str) -> Vec<String> {
        let verbs = [
            "change_message_",
            "change_resource_",
            "create_",
            "delete_",
            "describe_",
            "failover_db",
            "failover_global",
            "get_",
            "list_",
            "put_",
            "query",
            "receive_",
            "send_",
            "set_queue_",
            "simulate_",
            "switchover_",
            "update_",
        ];
        let calls = text.split('.').filter_map(|part| part.split_once("()")).map(|(name, _)| name.to_owned());
        calls.filter(|name| verbs.iter().any(|verb| name.starts_with(verb))).collect()
    }

    fn snake(action: &str) -> String {
        let (_, name) = action.split_once(':').expect("service:Action");
        let name = name.replace("DB", "Db");
        let mut snake = String::new();
        for c in name.chars() {
            if c.is_uppercase() && !snake.is_empty() {
                snake.push('_');
            }
            snake.extend(c.to_lowercase());
        }
        snake
    }

    #[test]
    fn each_call_of_the_code_is_granted_to_somebody_and_each_grant_is_called() {
        let granted: BTreeSet<&str> = settings()
            .iter()
            .flat_map(|settings| Role::value_variants().iter().flat_map(|role| statements(*role, settings)))
            .flat_map(|statement| statement.actions)
            .collect();
        let called: BTreeSet<String> =
            called().into_iter().map(|name| name.strip_suffix("_batch").unwrap_or(&name).to_owned()).collect();
        for action in &granted {
            // A database asks IAM for this one, not a client.
            assert!(
                *action == "rds-db:connect" || called.contains(&snake(action)),
                "{action} is granted, never called"
            );
        }
        let granted: BTreeSet<String> = granted.into_iter().map(snake).collect();
        for call in &called {
            // Everybody may ask who he is.
            assert!(call == "get_caller_identity" || granted.contains(call), "{call} is called, and nobody may");
        }
    }

    #[test]
    fn no_action_is_a_pattern_and_only_lists_are_on_anything() {
        for settings in settings() {
            for role in Role::value_variants() {
                for Statement { sid, actions, resources, .. } in statements(*role, &settings) {
                    assert!(actions.iter().all(|action| !action.contains('*')), "{sid}");
                    let lists = ["rds:DescribeGlobalClusters", "rds:DescribeDBClusters", "cloudwatch:GetMetricData"];
                    let narrow = resources.iter().all(|resource| resource != "*");
                    assert!(narrow || actions.iter().all(|action| lists.contains(action)), "{sid}: {resources:?}");
                }
            }
        }
    }
}
