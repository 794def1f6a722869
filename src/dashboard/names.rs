//! Where the public names lead, as DNS answers: the record only says what was done to them. Asked of the clusters that
//! somebody looks at, and of no other.

use super::{READ_EVERY, Served};
use crate::effects::World;
use schemars::JsonSchema;
use serde::Serialize;
use statemachine::{ClusterId, Record, Region};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Longest wait for one answer of DNS.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// A public name, as DNS answers for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) struct NameView {
    /// The name.
    pub(super) name: String,
    /// The region that it leads to; none when it leads elsewhere, or nothing is answered.
    pub(super) leads_to: Option<Region>,
    /// The answer, or why there is none.
    pub(super) answer: String,
}

/// Answers by cluster.
type Answers = BTreeMap<ClusterId, Vec<NameView>>;

/// Who looks at which cluster, and what DNS answered.
#[derive(Default)]
pub(super) struct Names {
    followed: Mutex<BTreeMap<ClusterId, usize>>,
    answers: watch::Sender<Answers>,
}

impl Names {
    /// Somebody looks at a cluster.
    pub(super) fn follow(&self, cluster: &ClusterId) -> watch::Receiver<Answers> {
        *self.followed().entry(cluster.clone()).or_default() += 1;
        let mut answers = self.answers.subscribe();
        // What is known already is news to whoever begins.
        answers.mark_changed();
        answers
    }

    /// One of those looks away.
    pub(super) fn leave(&self, cluster: &ClusterId) {
        let mut followed = self.followed();
        if let Some(count) = followed.get_mut(cluster) {
            *count -= 1;
            if *count == 0 {
                followed.remove(cluster);
            }
        }
    }

    fn followed(&self) -> MutexGuard<'_, BTreeMap<ClusterId, usize>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks for as long as it is let.
pub(super) async fn ask(served: Arc<Served>) {
    loop {
        tokio::time::sleep(READ_EVERY).await;
        let followed: Vec<ClusterId> = served.names.followed().keys().cloned().collect();
        for cluster in followed {
            let Some(known) = served.board.known(&cluster) else { continue };
            let found = lead(&served.world, &known.record).await;
            served.names.answers.send_if_modified(|answers| {
                let is_news = answers.get(&cluster) != Some(&found);
                answers.insert(cluster, found);
                is_news
            });
        }
    }
}

/// Where the names of a cluster lead now.
pub(super) async fn lead(world: &World, record: &Record) -> Vec<NameView> {
    let asked = record.config.routes.iter().map(async |route| {
        let answer = tokio::time::timeout(ANSWER_WITHIN, world.dns.cname(&route.name)).await;
        let (leads_to, answer) = match answer {
            Ok(Ok(target)) => {
                let member = record.config.members.iter().find(|member| member.endpoint == target);
                (member.map(|member| member.region.clone()), target)
            }
            Ok(Err(error)) => (None, error.to_string()),
            Err(_) => (None, format!("no answer within {} s", ANSWER_WITHIN.as_secs())),
        };
        NameView { name: route.name.clone(), leads_to, answer }
    });
    futures::future::join_all(asked).await
}
