use std::collections::HashMap;
use std::time::Duration;

use tokio::task::JoinHandle;
use tonic::Status;

use crate::client::repeated;
use crate::quota::{Decision, ExtendRequest, ReleaseRequest, SettleRequest, SettleResponse, Usage, settle_request};
use crate::{Client, is_undecided};

/// What a grant left. Its lease is renewed until `settle` or `release` ends it, or it is dropped.
pub struct Hold {
    client: Client,
    tenant: String,
    decision: Decision,
    renewing: JoinHandle<()>,
}

impl Hold {
    pub(crate) fn keep(client: Client, tenant: String, decision: Decision) -> Self {
        let renewing = tokio::spawn(renew(client.clone(), tenant.clone(), decision.clone()));
        Self { client, tenant, decision, renewing }
    }

    /// What was decided.
    pub fn decision(&self) -> &Decision {
        &self.decision
    }

    /// Charges what was used, as totals by meter, and gives the rest back.
    pub async fn settle(self, used: HashMap<String, i64>) -> Result<SettleResponse, Status> {
        self.renewing.abort();
        let request = SettleRequest {
            policy: self.client.policy.clone(),
            tenant: self.tenant.clone(),
            hold_id: self.decision.hold_id.clone(),
            delivered: Some(settle_request::Delivered::Usage(Usage { used })),
            ..Default::default()
        };
        let call = |request| {
            let mut stub = self.client.stub.clone();
            async move { stub.settle(request).await }
        };
        repeated(request, call).await
    }

    /// Gives everything back.
    pub async fn release(self) -> Result<(), Status> {
        self.renewing.abort();
        let request = ReleaseRequest {
            policy: self.client.policy.clone(),
            tenant: self.tenant.clone(),
            hold_id: self.decision.hold_id.clone(),
        };
        let call = |request| {
            let mut stub = self.client.stub.clone();
            async move { stub.release(request).await }
        };
        repeated(request, call).await.map(drop)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

async fn renew(client: Client, tenant: String, mut decision: Decision) {
    let request = ExtendRequest {
        policy: client.policy.clone(),
        tenant,
        hold_id: decision.hold_id.clone(),
        ..Default::default()
    };
    let call = |request| {
        let mut stub = client.stub.clone();
        async move { stub.extend(request).await }
    };
    while let Some(after_ms) = decision.renew_after_ms {
        tokio::time::sleep(Duration::from_millis(after_ms.unsigned_abs())).await;
        match repeated(request.clone(), call).await {
            Ok(answer) => decision = answer.decision.unwrap_or_default(),
            Err(status) => {
                eprintln!("hold {} was not renewed: {status}", request.hold_id);
                if !is_undecided(&status) {
                    return;
                }
            }
        }
    }
}
