//! Who may look at the dashboard, and who may give orders on it.
//!
//! On a loopback address anybody may look, as anybody on that machine may read the configuration. Everywhere else, and
//! for orders always, a bearer token is needed. A token in a header is nothing that a browser sends by itself, so no
//! other site can give orders in its user's name.

use axum::http::{HeaderMap, header};
use sha2::{Digest as _, Sha256};
use std::net::SocketAddr;

/// Least length of a token, in characters.
const TOKEN_MIN: usize = 16;

/// Why the dashboard is not served.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// Anybody could look.
    #[error("{listen} can be reached from elsewhere: set AURORA_FAILOVER_DASHBOARD_TOKEN, or listen on 127.0.0.1")]
    Open {
        /// The address.
        listen: SocketAddr,
    },
    /// It could be guessed.
    #[error("the token of the dashboard is shorter than {TOKEN_MIN} characters; make one with `openssl rand -hex 16`")]
    Short,
}

/// The rules of one dashboard.
#[derive(Clone)]
pub struct Access {
    /// Of the token; tokens are compared by their hashes, so that the time tells nothing.
    token: Option<[u8; 32]>,
    open: bool,
}

impl Access {
    /// For an address, with the token of whoever may give orders.
    ///
    /// # Errors
    /// See [`AccessError`].
    pub fn new(listen: SocketAddr, token: Option<&str>) -> Result<Self, AccessError> {
        if token.is_some_and(|token| token.chars().count() < TOKEN_MIN) {
            return Err(AccessError::Short);
        }
        let open = listen.ip().is_loopback();
        if !open && token.is_none() {
            return Err(AccessError::Open { listen });
        }
        Ok(Self { token: token.map(hash), open })
    }

    /// May whoever asks so look?
    #[must_use]
    pub fn may_look(&self, headers: &HeaderMap) -> bool {
        self.open || self.may_order(headers)
    }

    /// May he give orders?
    #[must_use]
    pub fn may_order(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = given.and_then(|value| value.strip_prefix("Bearer "));
        self.token.is_some() && given.map(hash) == self.token
    }

    /// Can anybody give orders here?
    #[must_use]
    pub const fn takes_orders(&self) -> bool {
        self.token.is_some()
    }
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    const TOKEN: &str = "0123456789abcdef";

    fn with(token: &str) -> HeaderMap {
        let value = HeaderValue::from_str(&format!("Bearer {token}")).expect("text");
        HeaderMap::from_iter([(header::AUTHORIZATION, value)])
    }

    #[test]
    fn only_loopback_is_open_and_orders_always_need_the_token() {
        let (near, far) = (SocketAddr::from(([127, 0, 0, 1], 1)), SocketAddr::from(([0, 0, 0, 0], 1)));
        assert!(matches!(Access::new(far, None), Err(AccessError::Open { .. })));
        assert!(matches!(Access::new(near, Some("short")), Err(AccessError::Short)));
        let nothing = HeaderMap::new();
        for (listen, token, headers, looks, orders) in [
            (near, None, &nothing, true, false),
            (near, None, &with(""), true, false),
            (near, Some(TOKEN), &nothing, true, false),
            (near, Some(TOKEN), &with("0123456789abcdeg"), true, false),
            (near, Some(TOKEN), &with(TOKEN), true, true),
            (far, Some(TOKEN), &nothing, false, false),
            (far, Some(TOKEN), &with("0123456789abcdeg"), false, false),
            (far, Some(TOKEN), &with(TOKEN), true, true),
        ] {
            let access = Access::new(listen, token).expect("allowed");
            assert_eq!((access.may_look(headers), access.may_order(headers)), (looks, orders), "{listen} {headers:?}");
        }
    }
}
