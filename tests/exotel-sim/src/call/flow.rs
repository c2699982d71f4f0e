//! Runs the applets of a flow.

use std::{collections::VecDeque, path::Path, sync::Arc, time::Duration};

use serde::Deserialize;

use super::{
    Call,
    applet::{self, Ask},
    caller::Caller,
    connect::{self, Dial},
    query, voicebot,
};
use crate::{Applet, Cause, StreamReport, wav::Clip, world::World};

/// Longest branch: a flow is data of the user, and two branches cannot call each other.
const MAX_APPLETS: usize = 1_000;

/// How long a synthetic voice takes for a character, and for one announcement at most.
const CHARACTER_MS: u64 = 60;
const LONGEST_ANNOUNCEMENT_MS: u64 = 10_000;

/// How often Gather looks for keys.
const KEY_POLL: Duration = Duration::from_millis(20);

/// What the applets so far leave for the next.
#[derive(Default)]
pub(crate) struct Progress {
    pub(crate) flow_id: String,
    pub(crate) digits: Option<String>,
    pub(crate) dial: Option<Dial>,
    pub(crate) stream: Option<StreamReport>,
    pub(crate) stream_recording: Option<String>,
    pub(crate) hung_up: bool,
}

/// How a flow ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    /// A Hangup applet, or a Gather that failed.
    HungUp,
    /// The call had to end.
    Ending,
    /// It ran out of applets: the line stays open and silent.
    RanOut,
}

/// Runs a flow from its first applet.
pub(crate) async fn run(world: &Arc<World>, call: &Arc<Call>, caller: &mut Caller, app_id: &str) -> Over {
    let Some(flow) = call.account.get().flow(app_id).cloned() else {
        return Over::HungUp;
    };
    let mut progress = Progress {
        flow_id: app_id.to_owned(),
        ..Progress::default()
    };
    let mut rest: VecDeque<Applet> = flow.applets.into();
    for _ in 0..MAX_APPLETS {
        let Some(applet) = rest.pop_front() else {
            return Over::RanOut;
        };
        if call.ending.is_cancelled() {
            progress.hung_up = true;
            // The Passthru after a stream is told of its end even when the person is gone.
            let told = progress.stream.is_some() && call.cause() != Cause::Shutdown;
            if !(told && matches!(applet, Applet::Passthru { .. })) {
                return Over::Ending;
            }
        }
        call.update(world, |report| report.applets.push(applet.name().to_owned()));
        if !matches!(applet, Applet::Passthru { .. }) {
            progress.stream = None;
            progress.stream_recording = None;
        }
        match applet {
            Applet::Hangup => return Over::HungUp,
            Applet::Voicebot { url, record } => {
                progress.stream = Some(voicebot::run(world, call, caller, &url).await);
                if record {
                    call.update(world, |report| report.recorded = true);
                    progress.stream_recording = Some(call.recording_url(world));
                }
            }
            Applet::Passthru {
                url,
                branch_b,
                asynchronous,
            } => {
                if passthru(world, call, &progress, url, asynchronous).await {
                    rest = branch_b.into();
                }
            }
            Applet::Greeting { url, text } => greeting(world, call, &progress, url, text).await,
            Applet::Gather { url, digits } => match gather(world, call, &progress, url, digits).await {
                Some(digits) => progress.digits = Some(digits),
                None => {
                    return if call.ending.is_cancelled() {
                        Over::Ending
                    } else {
                        Over::HungUp
                    };
                }
            },
            Applet::Connect {
                url,
                fallback_url,
                numbers,
            } => {
                let urls = [url, fallback_url].into_iter().flatten().collect();
                progress.dial = connect::run(world, call, &progress, urls, numbers).await;
            }
        }
    }
    Over::HungUp
}

/// Asks the server; true for branch B.
async fn passthru(world: &Arc<World>, call: &Arc<Call>, progress: &Progress, url: String, asynchronous: bool) -> bool {
    let query = query::passthru(call, progress, world.settings().stream_facts);
    if asynchronous {
        let (world, call) = (Arc::clone(world), Arc::clone(call));
        world.tasks.clone().spawn(async move {
            let request = Ask {
                applet: "passthru",
                url: &url,
                query,
                versioned: false,
                head: false,
            };
            let _ = applet::ask_anyway(&world, &call, request).await;
        });
        return false;
    }
    let request = Ask {
        applet: "passthru",
        url: &url,
        query,
        versioned: false,
        head: false,
    };
    applet::ask_anyway(world, call, request)
        .await
        .is_ok_and(|fetched| fetched.status == 302)
}

/// Says a text, or plays the files that the server names.
async fn greeting(
    world: &Arc<World>,
    call: &Arc<Call>,
    progress: &Progress,
    url: Option<String>,
    text: Option<String>,
) {
    let Some(url) = url else {
        say(world, call, text.unwrap_or_default()).await;
        return;
    };
    let ask = |head| Ask {
        applet: "greeting",
        url: &url,
        query: query::greeting(call, progress),
        versioned: false,
        head,
    };
    let Some(Ok(head)) = applet::ask(world, call, ask(true)).await else {
        return;
    };
    let Some(Ok(answer)) = applet::ask(world, call, ask(false)).await else {
        return;
    };
    if answer.status != 200 || !answer.is("text/plain") || !head.is("text/plain") {
        say(world, call, "(the greeting was no text/plain)".to_owned()).await;
        return;
    }
    let text = String::from_utf8_lossy(&answer.body).trim().to_owned();
    let files: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if files.is_empty()
        || !files
            .iter()
            .all(|line| line.starts_with("http://") || line.starts_with("https://"))
    {
        say(world, call, text).await;
        return;
    }
    for file in files {
        let request = Ask {
            applet: "greeting file",
            url: file,
            query: Vec::new(),
            versioned: false,
            head: false,
        };
        let Some(Ok(answer)) = applet::ask(world, call, request).await else {
            return;
        };
        let Ok(clip) = Clip::parse(&answer.body, Path::new("(greeting)")) else {
            say(world, call, "(the greeting was no WAV file)".to_owned()).await;
            continue;
        };
        if clip.rate != 8_000 {
            say(
                world,
                call,
                format!("(the greeting has {} Hz instead of 8000)", clip.rate),
            )
            .await;
            continue;
        }
        call.update(world, |report| {
            report.said.push(format!("(WAV of {} samples)", clip.samples.len()));
        });
        let milliseconds = u64::try_from(clip.samples.len()).unwrap_or(0) / 8;
        call.pause(world.settings().scaled_ms(milliseconds)).await;
    }
}

async fn say(world: &Arc<World>, call: &Arc<Call>, text: String) {
    let characters = u64::try_from(text.chars().count()).unwrap_or(u64::MAX);
    let milliseconds = characters.saturating_mul(CHARACTER_MS).min(LONGEST_ANNOUNCEMENT_MS);
    call.update(world, |report| report.said.push(text));
    call.pause(world.settings().scaled_ms(milliseconds)).await;
}

/// What a Gather URL answers.
#[derive(Deserialize)]
struct Menu {
    #[serde(default)]
    gather_prompt: Prompt,
    #[serde(default = "max_digits")]
    max_input_digits: usize,
    #[serde(default = "finish_key")]
    finish_on_key: String,
    #[serde(default = "input_timeout")]
    input_timeout: u64,
    #[serde(default, rename = "repeat_menu")]
    repeats: u32,
}

#[derive(Default, Deserialize)]
struct Prompt {
    text: Option<String>,
    audio_url: Option<String>,
}

fn max_digits() -> usize {
    255
}

fn finish_key() -> String {
    "#".to_owned()
}

fn input_timeout() -> u64 {
    5
}

impl Default for Menu {
    fn default() -> Self {
        Self {
            gather_prompt: Prompt::default(),
            max_input_digits: max_digits(),
            finish_on_key: finish_key(),
            input_timeout: input_timeout(),
            repeats: 0,
        }
    }
}

/// Asks for digits; `None` drops the call, as a bad answer does.
async fn gather(
    world: &Arc<World>,
    call: &Arc<Call>,
    progress: &Progress,
    url: Option<String>,
    scripted: String,
) -> Option<String> {
    let menu = match url {
        None => Menu::default(),
        Some(url) => {
            let query = query::passthru(call, progress, world.settings().stream_facts);
            let request = Ask {
                applet: "gather",
                url: &url,
                query,
                versioned: true,
                head: false,
            };
            let answer = applet::ask(world, call, request).await?.ok()?;
            if answer.status != 200 || !answer.is("application/json") {
                return None;
            }
            serde_json::from_slice(&answer.body).ok()?
        }
    };
    for _ in 0..=menu.repeats {
        if let Some(text) = menu
            .gather_prompt
            .text
            .clone()
            .or_else(|| menu.gather_prompt.audio_url.clone())
        {
            say(world, call, text).await;
        }
        let digits = keys(world, call, &menu, &scripted).await?;
        if !digits.is_empty() {
            return Some(digits);
        }
    }
    Some(String::new())
}

async fn keys(world: &Arc<World>, call: &Arc<Call>, menu: &Menu, scripted: &str) -> Option<String> {
    let mut pressed = String::new();
    let mut left = world.settings().scaled(Duration::from_secs(menu.input_timeout));
    loop {
        let mut new = call.added_keys();
        if new.is_empty() && pressed.is_empty() {
            new.push_str(scripted);
        }
        for key in new.chars() {
            if menu.finish_on_key.contains(key) {
                return Some(pressed);
            }
            pressed.push(key);
            if pressed.len() >= menu.max_input_digits {
                return Some(pressed);
            }
        }
        // Scripted keys come all at once; waiting for more would only wait for the time-out.
        if left.is_zero() || (!pressed.is_empty() && pressed == scripted) {
            return Some(pressed);
        }
        let pause = KEY_POLL.min(left);
        left -= pause;
        if !call.pause(pause).await {
            return None;
        }
    }
}
