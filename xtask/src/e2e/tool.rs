//! The command-line tool as a tired roboticist meets it.

use super::Stage;
use crate::Outcome;
use crate::processes::{MachineOptions, free_port};

/// Exit codes: 0 done, 2 usage, 3 unreachable, 4 refused.
pub fn exit_codes(stage: &Stage) -> Outcome {
    let machine = stage.machine(&MachineOptions::default())?;
    let address = format!("localhost:{}", machine.port);
    let nobody = format!("localhost:{}", free_port()?);
    let unknown = format!("{address}/what");
    let cases: [(&[&str], i32); 6] = [
        (&["status", &address], 0),
        (&["no-such-command"], 2),
        (&["status", &unknown], 2),
        (&["status", &nobody], 3),
        (&["--api-key", "wrong-key-never-echoed", "status", &address], 4),
        (&["call", &address, "nothing", "SetPower", "{}"], 1),
    ];
    for (arguments, code) in cases {
        let output = machine.lifeline(&stage.built, arguments)?;
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.code() != Some(code) {
            return Err(format!(
                "lifeline {arguments:?} ended with {:?} instead of {code}: {said}",
                output.status.code()
            )
            .into());
        }
        if code != 0 && said.trim().is_empty() {
            return Err(format!("lifeline {arguments:?} failed without a word").into());
        }
        if said.contains("wrong-key-never-echoed") {
            return Err("the tool echoes a secret".into());
        }
    }
    Ok(())
}

/// Every command that answers can answer in JSON.
pub fn json(stage: &Stage) -> Outcome {
    let machine = stage.machine(&MachineOptions::default())?;
    let address = format!("localhost:{}", machine.port);
    let commands: [&[&str]; 7] = [
        &["status", &address],
        &["sessions", &address],
        &["ops", &address],
        &["call", &address, "base", "IsMoving", "{}"],
        &["stop", &address, "--all"],
        &["dial", "--explain", &address],
        &["discover", "--for", "300ms"],
    ];
    for command in commands {
        let arguments: Vec<_> = ["--json"].iter().chain(command).copied().collect();
        let output = machine.lifeline(&stage.built, &arguments)?;
        if !output.status.success() {
            return Err(format!("lifeline {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        serde_json::from_slice::<serde_json::Value>(&output.stdout).map_err(|e| {
            format!("lifeline {arguments:?} printed no JSON ({e}): {}", String::from_utf8_lossy(&output.stdout))
        })?;
    }
    Ok(())
}
