//! Serves HTTP in front of some paid work: LISTEN HOLDGATE [--ca FILE [--cert FILE --key FILE]]; see ../README.md.

use std::collections::HashMap;
use std::error::Error;
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use holdgate_gateway::{Answer, Arguments, Ask, Client, Hold};
use serde_json::json;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse(std::env::args());
    let [listen, holdgate] = arguments.words.as_slice() else {
        return Err("usage: gateway LISTEN HOLDGATE [--ca FILE [--cert FILE --key FILE]]".into());
    };
    let client = Client::new(arguments.tls.connect(holdgate)?, "golden");
    let listener = tokio::net::TcpListener::bind(listen).await?;
    println!("gateway on {}", listener.local_addr()?);
    axum::serve(listener, Router::new().route("/work", post(paid)).with_state(client)).await?;
    Ok(())
}

/// Asks before it works, and settles when it has worked.
async fn paid(
    State(client): State<Client>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let ask = Ask {
        tenant: header("x-org").unwrap_or_default(),
        action: "job".to_owned(),
        request_id: header("x-request-id"),
        amounts: credits(number(&query, "reserve", 10)),
    };
    match client.reserve(ask).await {
        Ok(hold) => worked(hold, &query).await,
        Err(error) => forwarded(error.into()),
    }
}

async fn worked(hold: Hold, query: &HashMap<String, String>) -> Response {
    tokio::time::sleep(Duration::from_millis(number(query, "ms", 0).unsigned_abs())).await;
    if query.contains_key("fail") {
        if let Err(status) = hold.release().await {
            eprintln!("the hold ends with its lease: {status}");
        }
        let body = json!({"error": "the work failed"}).to_string();
        return forwarded(Answer { status: 500, headers: HashMap::new(), body });
    }
    let decision = hold.decision().clone();
    if let Err(status) = hold.settle(credits(number(query, "units", 1))).await {
        eprintln!("hold {} was not settled: {status}", decision.hold_id);
    }
    let headers = decision.http.unwrap_or_default().headers;
    forwarded(Answer { status: 200, headers, body: json!({"hold": decision.hold_id}).to_string() })
}

fn forwarded(answer: Answer) -> Response {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::TOO_MANY_REQUESTS);
    let mut response = (status, answer.body).into_response();
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    for (name, value) in &answer.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

fn credits(units: i64) -> HashMap<String, i64> {
    HashMap::from([("credits".to_owned(), units)])
}

fn number(query: &HashMap<String, String>, name: &str, otherwise: i64) -> i64 {
    query.get(name).and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}
