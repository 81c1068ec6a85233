"""The agent as a process: what is said when it does not start. That it runs is tested with the whole demo."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest

from agent.demo.process import AgentError, AgentProcess


async def test_an_agent_that_ends_says_why(tmp_path: Path) -> None:
    config = tmp_path / "agent.toml"
    config.write_text("[agent]\nno_such_key = 1\n")
    async with (
        AgentProcess(config, tmp_path / "agent.log") as agent,
        aiohttp.ClientSession("http://127.0.0.1:9") as session,
    ):
        with pytest.raises(AgentError, match=r"^the agent ended with status 2: deepecg-agent: .*no_such_key"):
            await agent.healthy(session)
        await agent.ended()
        with pytest.raises(AgentError, match="status 2"):
            agent.check()


async def test_leaving_ends_it(tmp_path: Path) -> None:
    config = tmp_path / "agent.toml"
    config.write_text(f'[agent]\nstate_dir = "{tmp_path}"\n[sources.hl7]\nport = 0\n')
    async with AgentProcess(config, tmp_path / "agent.log") as agent:
        agent.check()
    with pytest.raises(AgentError, match="status"):
        agent.check()
