//! `Custom::VpcPeering`: accepts a peering connection between two regions, and routes through it on both sides.

use super::{Job, Resource, not_empty};
use crate::failure::Failure;
use crate::protocol::Data;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::time::Duration;
use tracing::info;

const EC2: (&str, &str) = ("ec2", "2016-11-15");

const POLL_EVERY: Duration = Duration::from_secs(2);

/// Looks for a connection that becomes active, on each side: five minutes.
const LOOKS_MAX: u32 = 150;

/// States of a connection that may become active.
const ON_THE_WAY: [&str; 3] = ["initiating-request", "pending-acceptance", "provisioning"];

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct VpcPeering {
    peering_connection_id: String,
    requester_region: String,
    accepter_region: String,
    requester_route_table_ids: Vec<String>,
    accepter_route_table_ids: Vec<String>,
    requester_cidr: String,
    accepter_cidr: String,
}

impl Resource for VpcPeering {
    const TYPE: &'static str = "Custom::VpcPeering";

    fn check(&self) -> Result<(), Failure> {
        not_empty("PeeringConnectionId", &self.peering_connection_id)?;
        not_empty("RequesterRegion", &self.requester_region)?;
        not_empty("AccepterRegion", &self.accepter_region)?;
        not_empty("RequesterCidr", &self.requester_cidr)?;
        not_empty("AccepterCidr", &self.accepter_cidr)
    }

    fn identity(&self) -> Vec<String> {
        vec![self.peering_connection_id.clone()]
    }

    async fn put(&self, old: Option<&Self>, job: &Job) -> Result<Data, Failure> {
        self.accept(job).await?;
        let wanted = self.routes();
        // Looked at on both sides before anything is changed on either.
        let mut missing = Vec::new();
        for route in &wanted {
            match self.target(job, route).await? {
                Target::This => {}
                Target::Nothing => missing.push(route),
                Target::NoTable => {
                    return Err(Failure::new(format!("there is no route table {} in {}", route.table, route.region)));
                }
                Target::Other(other) => return Err(Failure::new(format!("the {route} leads to {other} already"))),
            }
        }
        for route in missing {
            self.create(job, route).await?;
        }
        for route in old.map(Self::routes).unwrap_or_default().difference(&wanted) {
            self.delete(job, route).await?;
        }
        Ok(Data::new())
    }

    async fn remove(&self, job: &Job) -> Result<(), Failure> {
        for route in self.routes() {
            self.delete(job, &route).await?;
        }
        Ok(())
    }
}

/// One route of ours.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Route {
    region: String,
    table: String,
    to: String,
}

impl std::fmt::Display for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "route to {} in the route table {} of {}", self.to, self.table, self.region)
    }
}

/// Where a route leads.
enum Target {
    /// Into our connection.
    This,
    /// There is none.
    Nothing,
    NoTable,
    Other(String),
}

impl VpcPeering {
    fn routes(&self) -> BTreeSet<Route> {
        let side = |region: &str, tables: &[String], to: &str| -> Vec<Route> {
            tables.iter().map(|table| Route { region: region.into(), table: table.clone(), to: to.into() }).collect()
        };
        let mut all = side(&self.requester_region, &self.requester_route_table_ids, &self.accepter_cidr);
        all.extend(side(&self.accepter_region, &self.accepter_route_table_ids, &self.requester_cidr));
        all.into_iter().collect()
    }

    /// Accepts it, and waits until both regions call it active.
    async fn accept(&self, job: &Job) -> Result<(), Failure> {
        for region in [self.accepter_region.as_str(), self.requester_region.as_str()] {
            self.await_active(job, region).await?;
        }
        Ok(())
    }

    async fn await_active(&self, job: &Job, region: &str) -> Result<(), Failure> {
        let id = &self.peering_connection_id;
        let mut seen = "not there yet".to_owned();
        let mut accepted = false;
        for _ in 0..LOOKS_MAX {
            let status = self.status(job, region).await?;
            seen = status.as_ref().map_or(seen, |status| status.code.clone());
            match status {
                Some(Status { code, .. }) if code == "active" => return Ok(()),
                Some(Status { code, .. })
                    if code == "pending-acceptance" && region == self.accepter_region && !accepted =>
                {
                    let parameters = [("VpcPeeringConnectionId".to_owned(), id.clone())];
                    match job.aws.query(EC2, region, "AcceptVpcPeeringConnection", &parameters).await {
                        Ok(_) => info!(connection = id, "accepted"),
                        // Accepted by somebody else in the meantime: the next look will tell.
                        Err(error) if error.is("InvalidStateTransition") => {}
                        Err(error) => return Err(error.into()),
                    }
                    accepted = true;
                    continue;
                }
                None => {}
                Some(Status { code, .. }) if ON_THE_WAY.contains(&code.as_str()) => {}
                Some(Status { code, message }) => {
                    return Err(Failure::new(format!("the peering connection {id} is {code}: {message}")));
                }
            }
            job.wait(POLL_EVERY, &format!("the peering connection {id} is {seen} in {region}")).await?;
        }
        Err(Failure::new(format!("the peering connection {id} is still {seen} in {region}")))
    }

    /// None while the region does not know the connection yet.
    async fn status(&self, job: &Job, region: &str) -> Result<Option<Status>, Failure> {
        let parameters = [("VpcPeeringConnectionId.1".to_owned(), self.peering_connection_id.clone())];
        match job.aws.query(EC2, region, "DescribeVpcPeeringConnections", &parameters).await {
            Ok(xml) => {
                let found: PeeringConnections = parse("DescribeVpcPeeringConnections", &xml)?;
                Ok(found.set.item.into_iter().next().map(|connection| connection.status))
            }
            Err(error) if error.is("InvalidVpcPeeringConnectionID.NotFound") => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn target(&self, job: &Job, route: &Route) -> Result<Target, Failure> {
        let parameters = [("RouteTableId.1".to_owned(), route.table.clone())];
        let xml = match job.aws.query(EC2, &route.region, "DescribeRouteTables", &parameters).await {
            Err(error) if error.is("InvalidRouteTableID.NotFound") => return Ok(Target::NoTable),
            answer => answer?,
        };
        let found: RouteTables = parse("DescribeRouteTables", &xml)?;
        let Some(table) = found.set.item.into_iter().find(|table| table.route_table_id == route.table) else {
            return Ok(Target::NoTable);
        };
        let same = table.route_set.item.into_iter().find(|entry| entry.destination.as_deref() == Some(&route.to));
        Ok(match same {
            None => Target::Nothing,
            Some(entry) if entry.connection.as_deref() == Some(&self.peering_connection_id) => Target::This,
            Some(entry) => Target::Other(entry.other()),
        })
    }

    async fn create(&self, job: &Job, route: &Route) -> Result<(), Failure> {
        let mut parameters = route.parameters().to_vec();
        parameters.push(("VpcPeeringConnectionId".to_owned(), self.peering_connection_id.clone()));
        match job.aws.query(EC2, &route.region, "CreateRoute", &parameters).await {
            // Ours, when an answer was lost; or somebody else was faster.
            Err(error) if error.is("RouteAlreadyExists") => match self.target(job, route).await? {
                Target::This => Ok(()),
                _ => Err(error.into()),
            },
            answer => {
                answer?;
                info!(%route, "created");
                Ok(())
            }
        }
    }

    /// Deletes it if it is ours.
    async fn delete(&self, job: &Job, route: &Route) -> Result<(), Failure> {
        match self.target(job, route).await? {
            Target::This => {}
            Target::Nothing | Target::NoTable => return Ok(()),
            Target::Other(other) => {
                info!(%route, other, "left alone: it leads elsewhere");
                return Ok(());
            }
        }
        match job.aws.query(EC2, &route.region, "DeleteRoute", &route.parameters()).await {
            Err(error) if error.is("InvalidRoute.NotFound") || error.is("InvalidRouteTableID.NotFound") => Ok(()),
            answer => {
                answer?;
                info!(%route, "deleted");
                Ok(())
            }
        }
    }
}

impl Route {
    fn parameters(&self) -> [(String, String); 2] {
        [("RouteTableId".into(), self.table.clone()), ("DestinationCidrBlock".into(), self.to.clone())]
    }
}

fn parse<T: DeserializeOwned>(call: &str, xml: &str) -> Result<T, Failure> {
    quick_xml::de::from_str(xml).map_err(|error| Failure::new(format!("the answer to {call} cannot be read: {error}")))
}

#[derive(Deserialize)]
struct Set<T> {
    #[serde(default = "Vec::new")]
    item: Vec<T>,
}

impl<T> Default for Set<T> {
    fn default() -> Self {
        Self { item: Vec::new() }
    }
}

#[derive(Deserialize)]
struct PeeringConnections {
    #[serde(rename = "vpcPeeringConnectionSet", default)]
    set: Set<PeeringConnection>,
}

#[derive(Deserialize)]
struct PeeringConnection {
    status: Status,
}

#[derive(Deserialize)]
struct Status {
    code: String,
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
struct RouteTables {
    #[serde(rename = "routeTableSet", default)]
    set: Set<RouteTable>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RouteTable {
    route_table_id: String,
    #[serde(default)]
    route_set: Set<Entry>,
}

/// A route as EC2 lists it: with one of many kinds of target.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(rename = "destinationCidrBlock")]
    destination: Option<String>,
    #[serde(rename = "vpcPeeringConnectionId")]
    connection: Option<String>,
    gateway_id: Option<String>,
    nat_gateway_id: Option<String>,
    transit_gateway_id: Option<String>,
    network_interface_id: Option<String>,
}

impl Entry {
    fn other(self) -> String {
        let targets =
            [self.connection, self.gateway_id, self.nat_gateway_id, self.transit_gateway_id, self.network_interface_id];
        targets.into_iter().flatten().find(|target| !target.is_empty()).unwrap_or_else(|| "something else".into())
    }
}
