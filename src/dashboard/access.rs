//! Who may look at the dashboard, and who may give orders on it.
//!
//! On a loopback address anybody may look, as anybody on that machine may read the configuration; but not under a name
//! that somebody else gave to that address, or any page on the internet could look with the user's browser. Everywhere
//! else, and for orders always, it takes a bearer token, or an identity that a load balancer has asked an OIDC provider for: the
//! balancer signs it, and the signature is checked here.
//!
//! An identity comes with a cookie, which a browser sends by itself: so an order is taken only from our own page, by what
//! the browser says of where it comes from.

use crate::aws::chain;
use crate::config::{BalancerSettings, DashboardSettings};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, header};
use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use statemachine::Timestamp;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::sync::Mutex;

/// Least length of a token, in characters.
const TOKEN_MIN: usize = 16;

/// Longest time for the key of a load balancer.
const KEY_WITHIN: Duration = Duration::from_secs(3);

/// Keys that are kept; a balancer changes its key rarely.
const KEYS_MAX: usize = 16;

/// What the balancer adds to a request, as AWS names it.
const IDENTITY_HEADER: &str = "x-amzn-oidc-data";

/// The balancers' base64 has padding, which that of JSON web tokens has not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why the dashboard is not served.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// Anybody could look.
    #[error(
        "{listen} can be reached from elsewhere: set AURORA_FAILOVER_DASHBOARD_TOKEN, configure [dashboard.load-balancer], \
         or listen on 127.0.0.1"
    )]
    Open {
        /// The address.
        listen: SocketAddr,
    },
    /// It could be guessed.
    #[error("the token of the dashboard is shorter than {TOKEN_MIN} characters; make one with `openssl rand -hex 16`")]
    Short,
}

/// Somebody who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// Who, as far as it is known: nothing for whoever only has the token.
    pub name: Option<String>,
    /// May give orders.
    pub operator: bool,
}

/// The rules of one dashboard.
pub struct Access {
    /// Of the token; tokens are compared by their hashes, so that the time tells nothing.
    token: Option<[u8; 32]>,
    open: bool,
    balancer: Option<BalancerSettings>,
    keys: Mutex<BTreeMap<String, DecodingKey>>,
    client: reqwest::Client,
}

impl Access {
    /// For an address.
    ///
    /// # Errors
    /// See [`AccessError`].
    pub fn new(listen: SocketAddr, settings: &DashboardSettings) -> Result<Self, AccessError> {
        let token = settings.token.0.as_deref();
        if token.is_some_and(|token| token.chars().count() < TOKEN_MIN) {
            return Err(AccessError::Short);
        }
        let open = listen.ip().is_loopback();
        if !open && token.is_none() && settings.balancer.is_none() {
            return Err(AccessError::Open { listen });
        }
        Ok(Self {
            token: token.map(hash),
            open,
            balancer: settings.balancer.clone(),
            keys: Mutex::default(),
            client: reqwest::Client::new(),
        })
    }

    /// Who asks; an error says why nobody is known, and none is an acquaintance who may not even look.
    ///
    /// # Errors
    /// Why the identity that came cannot be believed.
    pub async fn who(&self, headers: &HeaderMap, now: Timestamp) -> Result<Option<Person>, String> {
        let given = text(headers, header::AUTHORIZATION.as_str()).and_then(|value| value.strip_prefix("Bearer "));
        if self.token.is_some() && given.map(hash) == self.token {
            return Ok(Some(Person { name: None, operator: true }));
        }
        if let (Some(balancer), Some(identity)) = (&self.balancer, text(headers, IDENTITY_HEADER)) {
            return self.identity(balancer, identity, now).await.map(Some);
        }
        if !self.open {
            return Ok(None);
        }
        match text(headers, header::HOST.as_str()) {
            Some(host) if !is_this_machine(host) => {
                Err(format!("without the token this page answers to localhost and to addresses, not to {host}"))
            }
            _ => Ok(Some(Person { name: None, operator: false })),
        }
    }

    /// Can anybody give orders here?
    #[must_use]
    pub const fn takes_orders(&self) -> bool {
        self.token.is_some() || self.balancer.is_some()
    }

    async fn identity(&self, balancer: &BalancerSettings, token: &str, now: Timestamp) -> Result<Person, String> {
        let (message, signature) = token.rsplit_once('.').ok_or("it is no token")?;
        let (head, claims) = message.split_once('.').ok_or("it is no token")?;
        let head: Head = decoded(head)?;
        if head.alg != "ES256" {
            return Err(format!("it is signed by {}, not by ES256", head.alg));
        }
        if head.signer != balancer.arn.as_str() {
            return Err(format!("{} signed it, not the configured load balancer", head.signer));
        }
        let key = self.key(balancer, &head.kid).await?;
        let signature = signature.trim_end_matches('=');
        let valid = crypto::verify(signature, message.as_bytes(), &key, Algorithm::ES256);
        if !valid.map_err(|error| error.to_string())? {
            return Err("its signature is wrong".into());
        }
        if head.exp * 1000 < now.0 {
            return Err("it has expired; reload the page".into());
        }
        let claims: Value = decoded(claims)?;
        let name = claims[&balancer.claim].as_str().ok_or_else(|| format!("it has no {}", balancer.claim))?;
        Ok(Person { name: Some(name.to_owned()), operator: balancer.operators.iter().any(|known| known == name) })
    }

    async fn key(&self, balancer: &BalancerSettings, id: &str) -> Result<DecodingKey, String> {
        if id.is_empty() || !id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
            return Err("its key has no id".into());
        }
        let mut keys = self.keys.lock().await;
        if let Some(key) = keys.get(id) {
            return Ok(key.clone());
        }
        let url = format!("{}/{id}", balancer.keys_url.trim_end_matches('/'));
        let failed = |error: reqwest::Error| format!("the load balancer's key: {}", chain(&error));
        let answer = self.client.get(&url).timeout(KEY_WITHIN).send().await.map_err(failed)?;
        let pem = answer.error_for_status().map_err(failed)?.bytes().await.map_err(failed)?;
        let key = DecodingKey::from_ec_pem(&pem).map_err(|error| format!("the load balancer's key: {error}"))?;
        if keys.len() == KEYS_MAX {
            keys.clear();
        }
        keys.insert(id.to_owned(), key.clone());
        Ok(key)
    }
}

/// Is a `Host` one that only this machine has? An address cannot be given to somebody else's name.
fn is_this_machine(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host().trim_matches(['[', ']']);
    name == "localhost" || name.ends_with(".localhost") || name.parse::<IpAddr>().is_ok()
}

/// Does this come from our own page? A browser says so; what is no browser has no cookie to be misused.
#[must_use]
pub(super) fn is_from_here(headers: &HeaderMap) -> bool {
    if let Some(site) = text(headers, "sec-fetch-site") {
        return site == "same-origin";
    }
    match (text(headers, header::ORIGIN.as_str()), text(headers, header::HOST.as_str())) {
        (Some(origin), Some(host)) => origin.split_once("://").is_some_and(|(_, from)| from == host),
        _ => true,
    }
}

#[derive(Deserialize)]
struct Head {
    alg: String,
    kid: String,
    signer: String,
    /// Seconds since 1970.
    exp: u64,
}

fn decoded<T: serde::de::DeserializeOwned>(part: &str) -> Result<T, String> {
    let json = BASE64.decode(part).map_err(|error| error.to_string())?;
    serde_json::from_slice(&json).map_err(|error| error.to_string())
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Token;
    use axum::http::{HeaderName, HeaderValue};
    use jsonwebtoken::EncodingKey;
    use serde_json::json;
    use std::str::FromStr as _;
    use tokio::net::TcpListener;

    const TOKEN: &str = "0123456789abcdef";
    const ARN: &str = "arn:aws:elasticloadbalancing:us-west-2:1:loadbalancer/app/a/b";
    const NOW: Timestamp = Timestamp(1_000_000);

    fn headers(all: &[(&str, &str)]) -> HeaderMap {
        let header = |(name, value): &(&str, &str)| {
            (HeaderName::from_str(name).expect("a name"), HeaderValue::from_str(value).expect("text"))
        };
        all.iter().map(header).collect()
    }

    fn settings(token: Option<&str>) -> DashboardSettings {
        DashboardSettings { token: Token(token.map(str::to_owned)), balancer: None }
    }

    #[tokio::test]
    async fn only_loopback_is_open_and_orders_always_need_the_token() {
        let (near, far) = (SocketAddr::from(([127, 0, 0, 1], 1)), SocketAddr::from(([0, 0, 0, 0], 1)));
        assert!(matches!(Access::new(far, &settings(None)), Err(AccessError::Open { .. })));
        assert!(matches!(Access::new(near, &settings(Some("short"))), Err(AccessError::Short)));
        let (wrong, right) = ("Bearer 0123456789abcdeg", format!("Bearer {TOKEN}"));
        for (listen, token, given, looks, orders) in [
            (near, None, None, true, false),
            (near, None, Some("Bearer "), true, false),
            (near, Some(TOKEN), None, true, false),
            (near, Some(TOKEN), Some(wrong), true, false),
            (near, Some(TOKEN), Some(right.as_str()), true, true),
            (far, Some(TOKEN), None, false, false),
            (far, Some(TOKEN), Some(wrong), false, false),
            (far, Some(TOKEN), Some(right.as_str()), true, true),
        ] {
            let access = Access::new(listen, &settings(token)).expect("allowed");
            let given: Vec<_> = given.into_iter().map(|given| ("authorization", given)).collect();
            let who = access.who(&headers(&given), NOW).await.expect("no identity came");
            let found = (who.is_some(), who.is_some_and(|person| person.operator));
            assert_eq!(found, (looks, orders), "{listen} {given:?}");
        }
    }

    #[tokio::test]
    async fn without_the_token_a_name_of_somebody_else_shows_nothing() {
        let near = SocketAddr::from(([127, 0, 0, 1], 9470));
        let access = Access::new(near, &settings(Some(TOKEN))).expect("allowed");
        for (host, looks) in [
            ("localhost:9470", true),
            ("127.0.0.1:9470", true),
            ("[::1]:9470", true),
            ("orders.localhost", true),
            ("evil.example.com:9470", false),
            ("localhost.evil.example.com", false),
            ("127.0.0.1.evil.example.com", false),
            ("", false),
        ] {
            assert_eq!(access.who(&headers(&[("host", host)]), NOW).await.is_ok(), looks, "{host}");
            let token = format!("Bearer {TOKEN}");
            let known = access.who(&headers(&[("host", host), ("authorization", &token)]), NOW).await;
            assert!(known.is_ok_and(|person| person.is_some()), "{host} with the token");
        }
    }

    /// A load balancer: signs identities, and publishes its key.
    async fn balancer() -> (EncodingKey, BalancerSettings) {
        let pair = rcgen::KeyPair::generate().expect("a key");
        let (public, private) = (pair.public_key_pem(), pair.serialize_pem());
        let routes = axum::Router::new().route("/key-1", axum::routing::get(async move || public));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let keys_url = format!("http://{}", listener.local_addr().expect("it is bound"));
        tokio::spawn(async move { axum::serve(listener, routes).await });
        let balancer = BalancerSettings {
            arn: ARN.into(),
            claim: "email".into(),
            operators: vec!["alice@example.com".into()],
            keys_url,
        };
        (EncodingKey::from_ec_pem(private.as_bytes()).expect("a key"), balancer)
    }

    fn identity(key: &EncodingKey, head: &Value, claims: &Value) -> String {
        // As the balancers do: with padding.
        let encoder = base64::engine::general_purpose::URL_SAFE;
        let message = format!("{}.{}", encoder.encode(head.to_string()), encoder.encode(claims.to_string()));
        let signature = crypto::sign(message.as_bytes(), key, Algorithm::ES256).expect("signed");
        format!("{message}.{signature}==")
    }

    #[tokio::test]
    async fn an_identity_is_believed_only_if_the_balancer_signed_it_for_now() {
        let (key, balancer) = balancer().await;
        let far = SocketAddr::from(([0, 0, 0, 0], 1));
        let access =
            Access::new(far, &DashboardSettings { balancer: Some(balancer), ..settings(None) }).expect("allowed");
        let head = json!({ "alg": "ES256", "kid": "key-1", "signer": ARN, "exp": 2_000 });
        let claims = json!({ "email": "alice@example.com" });
        let who = async |token: &str| access.who(&headers(&[(IDENTITY_HEADER, token)]), NOW).await;

        let alice = who(&identity(&key, &head, &claims)).await.expect("believed").expect("somebody");
        assert_eq!(alice, Person { name: Some("alice@example.com".into()), operator: true });
        let bob = who(&identity(&key, &head, &json!({ "email": "bob@example.com" }))).await.expect("believed");
        assert_eq!(bob, Some(Person { name: Some("bob@example.com".into()), operator: false }));
        assert_eq!(access.who(&HeaderMap::new(), NOW).await, Ok(None));

        let (other, _) = self::balancer().await;
        let with = |name: &str, value: Value| {
            let mut head = head.clone();
            head[name] = value;
            head
        };
        let good = identity(&key, &head, &claims);
        let (message, signature) = good.rsplit_once('.').expect("three parts");
        let forged = identity(&key, &head, &json!({ "email": "mallory" }));
        let (forged, _) = forged.rsplit_once('.').expect("three parts");
        for (what, token, why) in [
            ("another key", identity(&other, &head, &claims), "signature"),
            ("another signer", identity(&key, &with("signer", json!("arn:other")), &claims), "arn:other"),
            ("an old one", identity(&key, &with("exp", json!(999)), &claims), "expired"),
            ("another algorithm", identity(&key, &with("alg", json!("none")), &claims), "ES256"),
            ("an unknown key", identity(&key, &with("kid", json!("key-2")), &claims), "404"),
            ("a key elsewhere", identity(&key, &with("kid", json!("../key-1")), &claims), "no id"),
            ("no name", identity(&key, &head, &json!({})), "no email"),
            ("other claims", format!("{forged}.{signature}"), "signature"),
            ("no signature", message.to_owned(), ""),
            ("nonsense", "x".into(), "no token"),
        ] {
            let error = who(&token).await.expect_err(what);
            assert!(error.contains(why), "{what}: {error}");
        }
    }

    #[test]
    fn an_order_from_another_site_is_not_from_here() {
        for (given, here) in [
            (&[("sec-fetch-site", "same-origin")][..], true),
            (&[("sec-fetch-site", "cross-site")], false),
            (&[("sec-fetch-site", "same-site"), ("origin", "https://a"), ("host", "a")], false),
            (&[("origin", "https://a.example.com"), ("host", "a.example.com")], true),
            (&[("origin", "https://evil.example.com"), ("host", "a.example.com")], false),
            (&[("origin", "null"), ("host", "a.example.com")], false),
            (&[("host", "a.example.com")], true),
        ] {
            assert_eq!(is_from_here(&headers(given)), here, "{given:?}");
        }
    }
}
