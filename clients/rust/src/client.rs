use std::collections::HashMap;
use std::error::Error;
use std::time::{Duration, Instant};

use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Response, Status};
use uuid::Uuid;

use crate::Hold;
use crate::quota::quota_service_client::QuotaServiceClient;
use crate::quota::{CheckAndReserveRequest, Decision, Outcome};

const WITHIN: Duration = Duration::from_secs(2); // a call is repeated for this long
const ATTEMPT: Duration = Duration::from_secs(1); // one try waits no longer
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// PEM files: the server's authorities, and what to show where the server asks; without `ca`, no TLS.
#[derive(Default)]
pub struct Tls {
    pub ca: Option<String>,
    pub certificate: Option<String>,
    pub key: Option<String>,
}

impl Tls {
    /// A connection; it is made with the first call.
    pub fn connect(&self, address: &str) -> Result<Channel, Box<dyn Error>> {
        let Some(ca) = &self.ca else {
            return Ok(Endpoint::from_shared(format!("http://{address}"))?.connect_lazy());
        };
        let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(std::fs::read(ca)?));
        if let (Some(certificate), Some(key)) = (&self.certificate, &self.key) {
            config = config.identity(Identity::from_pem(std::fs::read(certificate)?, std::fs::read(key)?));
        }
        Ok(Endpoint::from_shared(format!("https://{address}"))?.tls_config(config)?.connect_lazy())
    }
}

/// One question; amounts are in the meters' base units, and a request id is made up where there is none.
pub struct Ask {
    pub tenant: String,
    pub action: String,
    pub request_id: Option<String>,
    pub amounts: HashMap<String, i64>,
}

/// Why there is no hold.
pub enum ReserveError {
    /// Some limit blocks, or the request would have had to wait in a queue, which it has left; nothing was taken.
    Refused(Box<Decision>),
    /// No decision was made.
    Failed(Status),
}

/// Asks one server about one policy.
#[derive(Clone)]
pub struct Client {
    pub(crate) stub: QuotaServiceClient<Channel>,
    pub(crate) policy: String,
}

impl Client {
    pub fn new(channel: Channel, policy: &str) -> Self {
        Self { stub: QuotaServiceClient::new(channel), policy: policy.to_owned() }
    }

    /// Takes everything that was asked for. The caller ends the hold; one that is dropped ends with its lease.
    pub async fn reserve(&self, ask: Ask) -> Result<Hold, ReserveError> {
        let request = CheckAndReserveRequest {
            policy: self.policy.clone(),
            tenant: ask.tenant.clone(),
            request_id: ask.request_id.unwrap_or_else(|| Uuid::new_v4().to_string()),
            action: ask.action,
            amounts: ask.amounts,
            ..Default::default()
        };
        let call = |request| {
            let mut stub = self.stub.clone();
            async move { stub.check_and_reserve(request).await }
        };
        let answer = repeated(request, call).await;
        let decision = answer.map_err(ReserveError::Failed)?.decision.unwrap_or_default();
        match decision.outcome() {
            Outcome::Granted => Ok(Hold::keep(self.clone(), ask.tenant, decision)),
            Outcome::Queued => {
                let waiting = Hold::keep(self.clone(), ask.tenant, decision.clone());
                let _ = waiting.release().await; // a ticket that is not released lapses soon
                Err(ReserveError::Refused(Box::new(decision)))
            }
            _ => Err(ReserveError::Refused(Box::new(decision))),
        }
    }
}

/// Whether no decision could be had, and the caller is not to blame.
pub fn is_undecided(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::Internal
            | Code::Unknown
            | Code::Cancelled // tonic's own word for its deadline
    )
}

/// Calls until there is a decision: the request names its operation, so a repeat is never counted twice.
pub(crate) async fn repeated<Message: Clone, Answer, Outcome>(
    message: Message,
    call: impl Fn(Request<Message>) -> Outcome,
) -> Result<Answer, Status>
where
    Outcome: Future<Output = Result<Response<Answer>, Status>>,
{
    let until = Instant::now() + WITHIN;
    let mut pause = FIRST_PAUSE;
    loop {
        let mut request = Request::new(message.clone());
        request.set_timeout(ATTEMPT);
        match call(request).await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) if !is_undecided(&status) || Instant::now() + pause > until => return Err(status),
            Err(_) => tokio::time::sleep(pause).await,
        }
        pause *= 2;
    }
}
