"""One curation: its folder, its servers, its videos; run again, it goes on."""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pretrain.curate.asking import Asker
from pretrain.curate.pipeline import Pipeline
from pretrain.curate.prompts import read_prompts
from pretrain.curate.records import Record, Records, write_results
from pretrain.curate.settings import CurateConfig
from pretrain.marks import check_same, read_json, write_json
from rlnsp.chat import AnswerCache, ChatClient, ChatConfig
from rlnsp.chat.templates import hashes
from rlnsp.lane import in_background
from rlnsp.lock import locked
from rlnsp.manifest import ManifestError, Scenes, open_manifest
from rlnsp.settings import require

TRANSPORT = ("base_urls", "api_key_env", "concurrency", "timeout_s", "retries", "retry_wait_s", "rest_s")
"""Of a server's settings those that change no answer."""


def curate(config: CurateConfig, videos: Path | str, output: Path, console: Console) -> dict[str, Any]:
    """Make pairs of all videos that are not done yet; returns the yield, which is ``report.json`` too.

    Args:
        config: What and how.
        videos: A data set as ``rlnsp.dataset.rows`` reads it; captions and contexts may be missing.
        output: Its folder.
        console: For the progress.

    Raises:
        ConfigError: videos, prompts or servers that cannot be used, or other settings than before.
        ServerFailed: a server does not answer; the same call goes on.
    """
    began = time.monotonic()
    prompts = read_prompts(config.prompts)
    require(
        isinstance(videos, str) or not output.resolve().is_relative_to(videos.resolve()),
        f"--output {output}: is in the folder of the videos, and would be read with them; choose another",
    )
    scenes = open_manifest(videos, need_context=False)
    for scene in scenes:
        if scene.video is None:
            raise ManifestError(f"{videos}: {scene.id!r} has no video; name one, or drop its line")
    vlm = _connected(config.vlm, "vlm")
    llm = vlm if config.llm is None else _connected(config.llm, "llm")
    with locked(output):
        settings = _settings(config, videos, prompts, vlm, llm)
        if (output / "settings.json").is_file():
            check_same(output, read_json(output / "settings.json"), settings)
        write_json(output / "settings.json", settings)
        (output / "prompts").mkdir(exist_ok=True)
        for name, text in prompts.items():
            (output / "prompts" / f"{name}.txt").write_text(text + "\n", encoding="utf-8")
        cache = AnswerCache(output / "answers.sqlite")
        vlm.cache = llm.cache = cache
        asker, records = Asker(config, vlm, llm, prompts), Records(output / "videos")
        made_by = {"prompts": settings["prompts"], "vlm": vlm.model, "llm": llm.model}
        _run(Pipeline(config, asker, output, made_by, records), scenes, console)
        figures = write_results(output, [scene.id for scene in scenes], records)
        figures |= {
            "broken_files": scenes.rows.broken,
            "questions": dict(asker.asked),
            "calls": {"in_all": len(cache), "this_run": asker.answered},
            "seconds": round(time.monotonic() - began, 1),
        }
        write_json(output / "report.json", figures)
    return figures


def _run(pipeline: Pipeline, scenes: Scenes, console: Console) -> None:
    text = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    kept = 0
    with Progress(
        *text, TextColumn("{task.fields[note]}"), TimeRemainingColumn(), console=console
    ) as progress:
        task = progress.add_task("videos", total=len(scenes), note="")

        def tell(record: Record) -> None:
            nonlocal kept
            kept += len(record.pairs)
            progress.update(task, advance=1, note=f"{kept} pairs")

        running = in_background(pipeline.run(scenes, tell))
        try:
            running.result()
        finally:
            running.cancel()  # if it was this thread that was interrupted


def _connected(config: ChatConfig, name: str) -> ChatClient:
    chat = ChatClient(config)
    try:
        chat.connect()
    except ValueError as error:
        raise type(error)(f"{name}.{error}") from error
    return chat


def _settings(
    config: CurateConfig, videos: Path | str, prompts: Mapping[str, str], vlm: ChatClient, llm: ChatClient
) -> dict[str, Any]:
    """All that what is made depends on."""
    settings = asdict(config)
    for name in ("workers", "videos_at_once", "vlm", "llm"):
        del settings[name]
    for name, chat in (("vlm", vlm), ("llm", llm)):
        said = {key: value for key, value in asdict(chat.config).items() if key not in TRANSPORT}
        settings[name] = said | {"model": chat.model}
    version = hashlib.sha256(json.dumps(hashes(prompts), sort_keys=True).encode()).hexdigest()
    return {
        **settings,
        "prompts": version[:16],
        "videos": videos if isinstance(videos, str) else str(videos.resolve()),
    }
