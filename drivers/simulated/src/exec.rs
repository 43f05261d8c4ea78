//! Commands in a simulated object: a few built in, none of which reaches the host.

use std::collections::VecDeque;
use std::time::Duration;

use agent_api_driver::model::{Error, ErrorKind, ExitStatus, Guid, Result, parse_duration};
use agent_api_driver::{
    Exec, ExecInput, ExecOutput, ExecRequest, ExecStream, InputStream, Target, async_trait,
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::time::Instant;

use crate::Substrate;
use crate::driver::SimulatedDriver;
use crate::spec::Operation;
use crate::substrate::CommandGuard;
use crate::thing::State;
use crate::world::World;

/// How soon a command notes that its object has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

const KNOWN: &str = "echo TEXT…, print OUT ERR CODE, env [NAME], cat, sleep DURATION, exit CODE";

enum Job {
    /// What is left to say.
    Say(VecDeque<ExecOutput>),
    Copy(InputStream),
    Sleep(Instant),
}

struct Command {
    job: Job,
    timeout: Instant,
    after: Duration,
    substrate: Substrate,
    guid: Guid,
    ended: bool,
    _guard: CommandGuard,
}

fn line(text: &str) -> Bytes {
    Bytes::from(format!("{text}\n"))
}

fn exit(code: i32) -> ExecOutput {
    ExecOutput::Exit(ExitStatus::with_code(code))
}

/// None for a command that is not known.
fn job(request: &ExecRequest, input: InputStream) -> Option<Job> {
    let words: Vec<_> = request.command.iter().map(String::as_str).collect();
    let say = |outputs: Vec<ExecOutput>| Some(Job::Say(outputs.into()));
    match words.as_slice() {
        ["echo", text @ ..] => say(vec![ExecOutput::Stdout(line(&text.join(" "))), exit(0)]),
        ["print", out, err, code] => {
            let code = code.parse().ok()?;
            say(vec![
                ExecOutput::Stdout(line(out)),
                ExecOutput::Stderr(line(err)),
                exit(code),
            ])
        }
        ["env"] => {
            let all = request
                .env
                .iter()
                .map(|(name, value)| ExecOutput::Stdout(line(&format!("{name}={value}"))));
            say(all.chain([exit(0)]).collect())
        }
        ["env", name] => match request.env.get(*name) {
            Some(value) => say(vec![ExecOutput::Stdout(line(value)), exit(0)]),
            None => say(vec![exit(1)]),
        },
        ["cat"] => Some(Job::Copy(input)),
        ["sleep", duration, ..] => {
            let duration = parse_duration(duration).ok()?;
            Some(Job::Sleep(Instant::now().checked_add(duration)?))
        }
        ["exit", code] => say(vec![exit(code.parse().ok()?)]),
        _ => None,
    }
}

impl Command {
    async fn next(&mut self) -> Option<Result<ExecOutput>> {
        if self.ended {
            return None;
        }
        let item = tokio::select! {
            biased;
            () = tokio::time::sleep_until(self.timeout) => {
                Err(Error::new(ErrorKind::Timeout, format!("the command did not end within {:?}", self.after)))
            }
            output = Self::work(&mut self.job) => Ok(output),
            exit = Self::object_ended(&self.substrate, self.guid) => Ok(exit),
        };
        self.ended = matches!(item, Err(_) | Ok(ExecOutput::Exit(_)));
        Some(item)
    }

    async fn work(job: &mut Job) -> ExecOutput {
        match job {
            Job::Say(outputs) => outputs.pop_front().unwrap_or_else(|| exit(0)),
            Job::Copy(input) => loop {
                match input.next().await {
                    Some(ExecInput::Stdin(bytes)) => break ExecOutput::Stdout(bytes),
                    // There is no terminal.
                    Some(ExecInput::Resize(_)) => {}
                    None => break exit(0),
                }
            },
            Job::Sleep(until) => {
                tokio::time::sleep_until(*until).await;
                exit(0)
            }
        }
    }

    async fn object_ended(substrate: &Substrate, guid: Guid) -> ExecOutput {
        while substrate.runs(guid) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        ExecOutput::Exit(ExitStatus::with_signal("SIGKILL"))
    }
}

#[async_trait]
impl Exec for SimulatedDriver {
    async fn exec(&self, target: Target<'_>, request: ExecRequest, input: InputStream) -> Result<ExecStream> {
        self.open("exec")?;
        let guid = target.guid;
        let named = |error: Error| error.with_operation("exec").with_object(guid);
        if request.terminal.is_some() {
            let error = Error::new(ErrorKind::Unsupported, "a simulated object has no terminals");
            return Err(named(error.with_hint("run it without a terminal")));
        }
        let running = |world: &mut World, now| {
            let thing = world
                .ours(guid, target.handle, self.owner, now)
                .map_err(|miss| Self::missed(miss, guid))?;
            if thing.state != State::Running {
                return Err(Error::new(ErrorKind::Conflict, "it does not run"));
            }
            Ok(World::fate(thing, Operation::Exec))
        };
        let fate = self.substrate.with(running).map_err(named)?;
        fate.before().await.map_err(named)?;
        let job = job(&request, input).ok_or_else(|| {
            let message = format!("there is no command {:?} in a simulated object", request.command);
            named(Error::new(ErrorKind::NotFound, message).with_hint(format!("the commands are {KNOWN}")))
        })?;
        let command = Command {
            job,
            timeout: Instant::now() + request.timeout,
            after: request.timeout,
            substrate: self.substrate.clone(),
            guid,
            ended: false,
            _guard: self.substrate.command(request.command),
        };
        Ok(Box::pin(stream::unfold(command, |mut command| async move {
            let item = command.next().await?;
            Some((item, command))
        })))
    }
}
