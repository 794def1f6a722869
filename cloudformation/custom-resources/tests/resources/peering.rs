//! `Custom::VpcPeering` against EC2 of moto.

use crate::support::{Function, Recorder, all_between, aws, between, with};
use serde_json::{Value, json};

const VPC_PEERING: &str = "Custom::VpcPeering";
const EAST: &str = "us-east-2";
const WEST: &str = "us-west-2";

struct Ec2(&'static str);

impl Ec2 {
    async fn call(&self, region: &str, action: &str, fields: &[(&str, &str)]) -> String {
        let mut all = vec![("Action", action), ("Version", "2016-11-15")];
        all.extend(fields);
        aws::query(self.0, "ec2", region, &all).await
    }

    async fn vpc(&self, region: &str, cidr: &str) -> String {
        between(&self.call(region, "CreateVpc", &[("CidrBlock", cidr)]).await, "<vpcId>", "</vpcId>").to_owned()
    }

    async fn table(&self, region: &str, vpc: &str) -> String {
        let table = self.call(region, "CreateRouteTable", &[("VpcId", vpc)]).await;
        between(&table, "<routeTableId>", "</routeTableId>").to_owned()
    }

    async fn peering(&self, vpc: &str, peer: &str) -> String {
        let fields = [("VpcId", vpc), ("PeerVpcId", peer), ("PeerRegion", WEST)];
        let peering = self.call(EAST, "CreateVpcPeeringConnection", &fields).await;
        between(&peering, "<vpcPeeringConnectionId>", "</vpcPeeringConnectionId>").to_owned()
    }

    /// Destinations that lead into a connection.
    async fn routes(&self, region: &str, table: &str, peering: &str) -> Vec<String> {
        let tables = self.call(region, "DescribeRouteTables", &[("RouteTableId.1", table)]).await;
        let routes = between(&tables, "<routeSet>", "</routeSet>");
        let ours = all_between(routes, "<item>", "</item>").into_iter().filter(|route| route.contains(peering));
        ours.map(|route| between(route, "<destinationCidrBlock>", "</destinationCidrBlock>").to_owned()).collect()
    }
}

#[tokio::test]
async fn a_peering_is_accepted_and_routed_on_both_sides_and_only_our_routes_go() {
    let ec2 = Ec2(aws::moto().await);
    let (east, west) = (ec2.vpc(EAST, "10.0.0.0/16").await, ec2.vpc(WEST, "10.1.0.0/16").await);
    let (east_1, east_2) = (ec2.table(EAST, &east).await, ec2.table(EAST, &east).await);
    let west_1 = ec2.table(WEST, &west).await;
    let peering = ec2.peering(&east, &west).await;
    let properties = json!({
        "PeeringConnectionId": peering, "RequesterRegion": EAST, "AccepterRegion": WEST,
        "RequesterRouteTableIds": [east_1], "AccepterRouteTableIds": [west_1],
        "RequesterCidr": "10.0.0.0/16", "AccepterCidr": "10.1.0.0/16",
    });

    let recorder = Recorder::start(ec2.0).await;
    let mut function = Function::start(&recorder.url).await;
    let created = function.create(VPC_PEERING, &properties).await.succeeded();
    let described = [("VpcPeeringConnectionId.1", peering.as_str())];
    let described = ec2.call(EAST, "DescribeVpcPeeringConnections", &described).await;
    assert_eq!(between(&described, "<code>", "</code>"), "active");
    assert_eq!(ec2.routes(EAST, &east_1, &peering).await, ["10.1.0.0/16"]);
    assert_eq!(ec2.routes(WEST, &west_1, &peering).await, ["10.0.0.0/16"]);
    function.create(VPC_PEERING, &properties).await.succeeded();
    assert_eq!(ec2.routes(EAST, &east_1, &peering).await.len(), 1);

    let other_table = with(&properties, "RequesterRouteTableIds", json!([east_2]));
    let updated = function.update(VPC_PEERING, &created.id(), &properties, &other_table).await.succeeded();
    assert_eq!(updated.id(), created.id());
    assert!(ec2.routes(EAST, &east_1, &peering).await.is_empty());
    assert_eq!(ec2.routes(EAST, &east_2, &peering).await, ["10.1.0.0/16"]);
    recorder.check(VPC_PEERING);

    // Somebody else's.
    let gateway = ec2.call(EAST, "CreateInternetGateway", &[]).await;
    let gateway = between(&gateway, "<internetGatewayId>", "</internetGatewayId>").to_owned();
    ec2.call(EAST, "AttachInternetGateway", &[("InternetGatewayId", &gateway), ("VpcId", &east)]).await;
    let foreign = [("RouteTableId", east_1.as_str()), ("DestinationCidrBlock", "10.1.0.0/16"), ("GatewayId", &gateway)];
    ec2.call(EAST, "CreateRoute", &foreign).await;
    let both = with(&properties, "RequesterRouteTableIds", json!([east_1, east_2]));
    function.update(VPC_PEERING, &created.id(), &other_table, &both).await.failed(&gateway);
    function.delete(VPC_PEERING, &created.id(), &both).await.succeeded();
    assert!(ec2.routes(EAST, &east_2, &peering).await.is_empty());
    assert!(ec2.routes(WEST, &west_1, &peering).await.is_empty());
    assert_eq!(ec2.routes(EAST, &east_1, &gateway).await, ["10.1.0.0/16"], "the route of somebody else stays");

    function.delete(VPC_PEERING, &created.id(), &both).await.succeeded();
    let gone = with(&both, "AccepterRouteTableIds", json!(["rtb-0123456789abcdef0"]));
    function.delete(VPC_PEERING, &created.id(), &gone).await.succeeded();
    let gone = with(&gone, "RequesterRouteTableIds", json!([east_2]));
    function.create(VPC_PEERING, &gone).await.failed("no route table rtb-0123456789abcdef0 in us-west-2");
    assert!(ec2.routes(EAST, &east_2, &peering).await.is_empty(), "looked at on both sides before anything is changed");
}

#[tokio::test]
async fn a_peering_that_can_never_be_active_is_refused_with_its_state() {
    let ec2 = Ec2(aws::moto().await);
    let (east, west) = (ec2.vpc(EAST, "10.2.0.0/16").await, ec2.vpc(WEST, "10.3.0.0/16").await);
    let peering = ec2.peering(&east, &west).await;
    let recorder = Recorder::start(ec2.0).await;
    ec2.call(WEST, "RejectVpcPeeringConnection", &[("VpcPeeringConnectionId", &peering)]).await;
    let mut function = Function::start(&recorder.url).await;
    let tables: Value = json!([]);
    let properties = json!({
        "PeeringConnectionId": peering, "RequesterRegion": EAST, "AccepterRegion": WEST,
        "RequesterRouteTableIds": tables, "AccepterRouteTableIds": tables,
        "RequesterCidr": "10.2.0.0/16", "AccepterCidr": "10.3.0.0/16",
    });
    function.create(VPC_PEERING, &properties).await.failed("is rejected");
}
