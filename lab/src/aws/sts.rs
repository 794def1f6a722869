//! STS, query protocol of 2011-06-15: who is calling.

use super::wire::{Refusal, Reply, document, request_id, tag, text, xml_error};

const NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";

pub(super) fn call(action: &str, account: &str, arn: &str) -> Reply {
    if action != "GetCallerIdentity" {
        let message = format!("the lab's STS has no action '{action}'");
        return xml_error(NAMESPACE, &Refusal::new("InvalidAction", message));
    }
    let identity = text("Arn", arn) + &text("UserId", "AIDALAB") + &text("Account", account);
    let metadata = tag("ResponseMetadata", text("RequestId", request_id()));
    let content = tag("GetCallerIdentityResult", identity) + &metadata;
    Reply::new(200, "text/xml", document("GetCallerIdentityResponse", NAMESPACE, content))
}
