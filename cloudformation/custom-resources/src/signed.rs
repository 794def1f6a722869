//! Calls to EC2, CloudFormation and Lambda: nine operations. Their SDK crates are the largest there are, and would
//! take longer to compile than everything else here together; the operations are a few fields each. So they are sent
//! over the HTTP client that is there anyway, signed by the SDK's own signer, with the SDK's credentials.

use crate::aws::Aws;
use crate::failure::{Failure, chain};
use aws_credential_types::provider::ProvideCredentials as _;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningParams, SigningSettings, sign};
use aws_sigv4::sign::v4;
use reqwest::Method;
use serde::Deserialize;
use serde_json::Value;
use std::fmt;
use std::time::{Duration, SystemTime};

const ATTEMPTS_MAX: u32 = 5;
const BACKOFF: Duration = Duration::from_millis(200);

/// Codes that mean: later.
const THROTTLED: [&str; 5] =
    ["RequestLimitExceeded", "Throttling", "ThrottlingException", "TooManyRequestsException", "Unavailable"];

/// One call.
pub(crate) struct Call<'a> {
    /// As in the host name, such as `ec2`.
    pub(crate) service: &'a str,
    /// Where.
    pub(crate) region: &'a str,
    /// Such as `POST`.
    pub(crate) method: Method,
    /// Path and query, encoded.
    pub(crate) path: &'a str,
    /// Of the body.
    pub(crate) content_type: &'a str,
    /// The body.
    pub(crate) body: Vec<u8>,
}

/// A call was refused, or not answered.
#[derive(Debug, Clone)]
pub(crate) struct CallError {
    what: String,
    /// The service's code; none without an answer.
    pub(crate) code: Option<String>,
    detail: String,
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.code {
            Some(code) => write!(f, "{} answered {code}: {}", self.what, self.detail),
            None => write!(f, "{} gave no answer: {}", self.what, self.detail),
        }
    }
}

impl std::error::Error for CallError {}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        Self::new(error.to_string())
    }
}

impl CallError {
    /// Did the service answer with this code?
    pub(crate) fn is(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }
}

impl Aws {
    /// A call of the query protocol; answers the XML.
    ///
    /// # Errors
    /// When the service refuses, or does not answer after some attempts.
    pub(crate) async fn query(
        &self,
        (service, version): (&str, &str),
        region: &str,
        action: &str,
        parameters: &[(String, String)],
    ) -> Result<String, CallError> {
        let content_type = "application/x-www-form-urlencoded; charset=utf-8";
        let body = form(action, version, parameters);
        let call = Call { service, region, method: Method::POST, path: "/", content_type, body };
        self.send(action, &call).await
    }

    /// A signed call; answers the body.
    ///
    /// # Errors
    /// As above.
    pub(crate) async fn send(&self, what: &str, call: &Call<'_>) -> Result<String, CallError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let (error, again) = match self.send_once(what, call).await {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            if !again || attempt >= ATTEMPTS_MAX {
                return Err(error);
            }
            tokio::time::sleep(BACKOFF * 2_u32.pow(attempt)).await;
        }
    }

    /// An error comes with whether another attempt may help.
    async fn send_once(&self, what: &str, call: &Call<'_>) -> Result<String, (CallError, bool)> {
        let failed = |detail: String| CallError { what: what.to_owned(), code: None, detail };
        let http = self.http().await.map_err(|error| (failed(chain(&error)), false))?;
        let request = self.signed(http, call).await.map_err(|why| (failed(why), false))?;
        let answer = http.execute(request).await.map_err(|error| (failed(chain(&error)), true))?;
        let status = answer.status();
        let named = answer.headers().get("x-amzn-errortype").and_then(|name| name.to_str().ok()).map(ToOwned::to_owned);
        let text = answer.text().await.map_err(|error| (failed(chain(&error)), true))?;
        if status.is_success() {
            return Ok(text);
        }
        let (code, detail) = refusal(&text);
        let code = named.map(|name| name.split(':').next().unwrap_or_default().to_owned()).or(code);
        let code = code.unwrap_or_else(|| format!("status {}", status.as_u16()));
        let again = status.is_server_error() || status.as_u16() == 429 || THROTTLED.contains(&code.as_str());
        Err((CallError { what: what.to_owned(), code: Some(code), detail }, again))
    }

    async fn signed(&self, http: &reqwest::Client, call: &Call<'_>) -> Result<reqwest::Request, String> {
        let config = self.config(Some(call.region)).await;
        let endpoint = config.endpoint_url().map_or_else(|| endpoint(call), ToOwned::to_owned);
        let url = format!("{}{}", endpoint.trim_end_matches('/'), call.path);
        let request = http.request(call.method.clone(), url).header("content-type", call.content_type);
        let mut request = request.body(call.body.clone()).build().map_err(|error| chain(&error))?;
        let provider = config.credentials_provider().ok_or("there are no AWS credentials")?;
        let credentials = provider.provide_credentials().await.map_err(|error| chain(&error))?;
        let identity = credentials.into();
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(call.region)
            .name(call.service)
            .time(SystemTime::now())
            .settings(SigningSettings::default())
            .build()
            .map_err(|error| chain(&error))?;
        let parameters = SigningParams::from(parameters);
        let headers = [("content-type", call.content_type)].into_iter();
        let signable = SignableRequest::new(
            call.method.as_str(),
            request.url().as_str(),
            headers,
            SignableBody::Bytes(&call.body),
        );
        let signable = signable.map_err(|error| chain(&error))?;
        let (instructions, _) = sign(signable, &parameters).map_err(|error| chain(&error))?.into_parts();
        for (name, value) in instructions.headers() {
            let name = reqwest::header::HeaderName::from_bytes(name.as_bytes()).map_err(|error| chain(&error))?;
            request.headers_mut().insert(name, value.parse().map_err(|_| "a signature that is no header")?);
        }
        Ok(request)
    }
}

fn form(action: &str, version: &str, parameters: &[(String, String)]) -> Vec<u8> {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("Action", action).append_pair("Version", version).extend_pairs(parameters);
    form.finish().into_bytes()
}

fn endpoint(call: &Call<'_>) -> String {
    let domain = if call.region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    format!("https://{}.{}.{domain}", call.service, call.region)
}

/// A refusal in XML: EC2 has a list where the others have one error.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Refusal {
    errors: Option<Errors>,
    error: Option<Refused>,
}

#[derive(Deserialize)]
struct Errors {
    #[serde(rename = "Error")]
    first: Refused,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Refused {
    code: String,
    #[serde(default)]
    message: String,
}

/// Code and message of a refusal, in XML or JSON.
fn refusal(text: &str) -> (Option<String>, String) {
    if let Ok(json) = serde_json::from_str::<Value>(text) {
        let detail = json["message"].as_str().or_else(|| json["Message"].as_str()).unwrap_or("no message");
        return (None, detail.to_owned());
    }
    let refusal = quick_xml::de::from_str::<Refusal>(text).ok();
    let refused = refusal.and_then(|refusal| refusal.errors.map(|errors| errors.first).or(refusal.error));
    match refused {
        Some(refused) => (Some(refused.code), refused.message),
        None => (None, "no message".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_read_in_both_languages_and_from_anything_else_nothing_is() {
        let ec2 = "<Response><Errors><Error><Code>InvalidRoute.NotFound</Code><Message>no &lt;route&gt;</Message></Error></Errors></Response>";
        assert_eq!(refusal(ec2), (Some("InvalidRoute.NotFound".into()), "no <route>".into()));
        assert_eq!(refusal("{\"Message\":\"no layer\"}"), (None, "no layer".into()));
        for other in ["", "<", "<html>", "not found"] {
            assert_eq!(refusal(other), (None, "no message".into()), "{other}");
        }
    }

    #[test]
    fn endpoints_are_those_of_the_partition() {
        let call =
            |region| Call { service: "ec2", region, method: Method::POST, path: "/", content_type: "", body: vec![] };
        assert_eq!(endpoint(&call("eu-west-1")), "https://ec2.eu-west-1.amazonaws.com");
        assert_eq!(endpoint(&call("cn-north-1")), "https://ec2.cn-north-1.amazonaws.com.cn");
    }
}
