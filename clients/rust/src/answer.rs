use std::collections::HashMap;

use serde_json::json;

use crate::quota::{Decision, Outcome};
use crate::{ReserveError, is_undecided};

/// An HTTP answer for work that may not go ahead.
pub struct Answer {
    pub status: u16,
    pub headers: HashMap<String, String>,
    pub body: String,
}

impl From<ReserveError> for Answer {
    /// A refusal in the policy's own form where it has one; anything else with a 5xx.
    fn from(error: ReserveError) -> Self {
        match error {
            ReserveError::Refused(decision) => refusal(*decision),
            ReserveError::Failed(status) if is_undecided(&status) => {
                let headers = HashMap::from([("retry-after".to_owned(), "1".to_owned())]);
                Self { status: 503, headers, body: error_body("quota_unavailable", "Please try again shortly.") }
            }
            ReserveError::Failed(_) => Self {
                status: 500,
                headers: HashMap::new(),
                body: error_body("internal", "The request could not be checked."),
            },
        }
    }
}

fn refusal(decision: Decision) -> Answer {
    if decision.outcome() == Outcome::Queued {
        let headers = HashMap::from([("retry-after".to_owned(), "1".to_owned())]);
        return Answer { status: 429, headers, body: error_body("queued", "All places are taken. Please try again shortly.") };
    }
    let refusal = decision.refusal.unwrap_or_default();
    let http = decision.http.unwrap_or_default();
    let mut headers = http.headers;
    if !http.body.is_empty() {
        return Answer { status: status(http.status), headers, body: http.body };
    }
    if let Some(wait_ms) = refusal.retry_after_ms {
        headers.insert("retry-after".to_owned(), ((wait_ms + 999) / 1000).to_string());
    }
    Answer { status: status(refusal.http_status), headers, body: error_body(&refusal.code, &refusal.message) }
}

fn status(status: i32) -> u16 {
    u16::try_from(status).unwrap_or(429)
}

fn error_body(code: &str, message: &str) -> String {
    json!({"error": {"code": code, "message": message}}).to_string()
}
