//! Voice agents.

use callbridge_proto::directory::v1::{Agent, GetAgentRequest, ListAgentsRequest};

use crate::{Failure, accounts::cap, arguments::Directory, client::Client, output::Out, words};

/// The API's largest page.
const PAGE: i32 = 200;

pub(crate) async fn run(client: &Client, out: &mut Out<'_>, command: Directory) -> Result<(), Failure> {
    match command {
        Directory::List => list(client, out).await,
        Directory::Show { id } => {
            let answer = client.agents().get_agent(GetAgentRequest { agent_id: id }).await;
            let agent = answer
                .map_err(client.failed("show the agent"))?
                .into_inner()
                .agent
                .unwrap_or_default();
            if out.json {
                return Ok(out.message(&agent)?);
            }
            show(out, &agent)
        }
    }
}

async fn list(client: &Client, out: &mut Out<'_>) -> Result<(), Failure> {
    let (mut agents, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListAgentsRequest {
            page_size: PAGE,
            page_token,
        };
        let answer = client.agents().list_agents(request).await;
        let page = answer.map_err(client.failed("list agents"))?.into_inner();
        agents.extend(page.agents);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if out.json {
        for agent in &agents {
            out.message(agent)?;
        }
        return Ok(());
    }
    let rows = agents.into_iter().map(|agent| {
        [
            agent.id,
            agent.name,
            agent.version.to_string(),
            agent.endpoints.join(" "),
            agent.sample_rate.to_string(),
            cap(agent.max_concurrent_calls),
        ]
    });
    Ok(out.table(["id", "name", "version", "endpoints", "rate", "cap"], rows.collect())?)
}

fn show(out: &mut Out<'_>, agent: &Agent) -> Result<(), Failure> {
    let greeting = agent.greeting.clone().unwrap_or_default();
    Ok(out.facts(&[
        ("id", agent.id.clone()),
        ("name", agent.name.clone()),
        ("version", agent.version.to_string()),
        ("endpoints", agent.endpoints.join(" ")),
        ("sample rate", format!("{} Hz", agent.sample_rate)),
        ("greeting text", greeting.text),
        ("greeting WAV", greeting.wav_sha256),
        ("config", agent.config.clone()),
        ("cap", cap(agent.max_concurrent_calls)),
        ("added", words::time(agent.created_at)),
        ("changed", words::time(agent.updated_at)),
    ])?)
}
