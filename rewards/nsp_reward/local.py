"""A Qwen2.5-VL in this process, asked in batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from jinja2 import TemplateError
from PIL import Image

from rlnsp.chat import Answer, AnswerCache, Question, Token
from rlnsp.settings import require

if TYPE_CHECKING:
    from torch import Tensor

FRAME = "<|vision_start|><|image_pad|><|vision_end|>"
"""How a frame stands in a prompt; the padding is repeated, once a merged patch."""


@dataclass(frozen=True, kw_only=True)
class LocalConfig:
    """Which model, and where it computes."""

    model: str = ""
    """A folder, or a model hub's id."""
    revision: str = "main"
    """Of a hub's model."""
    local_files_only: bool = False
    """Never look for a hub's model on the internet."""
    dtype: Literal["fp32", "bf16"] = "bf16"
    device: str = "auto"
    """``auto``: a GPU where there is one."""
    batch_size: int = 16
    """Questions answered together."""
    offload: bool = False
    """On the CPU while it is not asked, so that the policy has the GPU's memory."""

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, f"transformers.batch_size must be at least 1; got {self.batch_size}")


@dataclass(frozen=True, kw_only=True)
class _Row:
    ids: list[int]
    images: Mapping[str, Tensor]
    """pixel_values and image_grid_thw; empty without frames."""


class LocalChat:
    """Answers greedily: the likeliest token each time, whatever the model's own defaults say."""

    def __init__(self, config: LocalConfig, cache: AnswerCache | None = None) -> None:
        """Load it.

        Raises:
            ConfigError: there is no such model, or it is of another family.
        """
        from rewards.nsp_reward.loading import load_qwen, version_of
        from rlnsp.pretrained import OnDevice

        self.config, self.cache = config, cache
        self.model, self.tokenizer, self.image_processor = load_qwen(config)
        name, version = version_of(config, self.model)
        self._identity = {"model": name, "version": version, "dtype": config.dtype}
        self.on_device = OnDevice(self.model, config.device, offload=config.offload)
        self._lists = self._takes_parts()

    def identity(self) -> Mapping[str, Any]:
        """The model's name, what its files are told apart by, and its precision."""
        return self._identity

    def answers(self, questions: Sequence[Question]) -> list[Answer | Exception]:
        """Each question's answer, or why there is none, in order.  The same question is asked once."""
        keys = [question.key(self._identity) for question in questions]
        answers: dict[str, Answer | Exception] = {}
        rows: dict[str, _Row] = {}
        # By what a batch has in common; in the order asked, so that the same calls make the same batches.
        waiting: dict[tuple[int, int], list[str]] = {}
        for key, question in zip(keys, questions, strict=True):
            if key in answers or key in rows:
                continue
            if self.cache is not None and (known := self.cache.get(key)) is not None:
                answers[key] = known
                continue
            try:
                rows[key] = self._row(question)
            except ValueError as error:
                answers[key] = error
                continue
            waiting.setdefault((question.max_tokens, question.top_logprobs), []).append(key)
        if waiting:
            with self.on_device.use():
                for (max_tokens, top_logprobs), all_keys in waiting.items():
                    for start in range(0, len(all_keys), self.config.batch_size):
                        batch = all_keys[start : start + self.config.batch_size]
                        made = self._generate([rows[key] for key in batch], max_tokens, top_logprobs)
                        for key, answer in zip(batch, made, strict=True):
                            answers[key] = answer
                            if self.cache is not None:
                                self.cache.put(key, answer)
        return [answers[key] for key in keys]

    def _takes_parts(self) -> bool:
        """Whether the chat template reads images and texts apart, or one text with all in it."""
        try:
            rendered = self._rendered([{"type": "image"}, {"type": "text", "text": "x"}])
        except (TypeError, TemplateError):
            return False
        return rendered.count(FRAME) == 1 and "'text'" not in rendered

    def _rendered(self, content: Any) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
            )
        )

    def _row(self, question: Question) -> _Row:
        """The prompt's tokens, with room for its frames.

        Raises:
            ValueError: a text holds the image token.
        """
        frames = [
            Image.fromarray(frame) for part in question.content if not isinstance(part, str) for frame in part
        ]
        if self._lists:
            content: Any = []
            for part in question.content:
                if isinstance(part, str):
                    content.append({"type": "text", "text": part})
                else:
                    content += [{"type": "image"}] * len(part)
        else:
            content = "".join(
                part if isinstance(part, str) else FRAME * len(part) for part in question.content
            )
        ids = self.tokenizer(self._rendered(content), add_special_tokens=False)["input_ids"]
        pad = self.model.config.image_token_id
        if ids.count(pad) != len(frames):
            raise ValueError("the prompt, a context or a caption holds the image token itself; take it out")
        if not frames:
            return _Row(ids=ids, images={})
        images = dict(self.image_processor(images=frames, return_tensors="pt"))
        counts = iter((images["image_grid_thw"].prod(-1) // self.image_processor.merge_size**2).tolist())
        ids = [one for id in ids for one in ([id] * next(counts) if id == pad else [id])]
        return _Row(ids=ids, images=images)

    def _generate(self, rows: Sequence[_Row], max_tokens: int, top_logprobs: int) -> list[Answer]:
        import torch

        longest = max(len(row.ids) for row in rows)
        ids = torch.full((len(rows), longest), self.tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for number, row in enumerate(rows):
            ids[number, longest - len(row.ids) :] = torch.tensor(row.ids)
            mask[number, longest - len(row.ids) :] = 1
        inputs = {"input_ids": ids, "attention_mask": mask}
        inputs["mm_token_type_ids"] = (ids == self.model.config.image_token_id).int()
        shown = [row.images for row in rows if row.images]
        if shown:
            inputs |= {name: torch.cat([images[name] for images in shown]) for name in shown[0]}
        made = self.model.generate(
            **{name: value.to(self.on_device.device) for name, value in inputs.items()},
            max_new_tokens=max_tokens,
            output_logits=bool(top_logprobs),
            return_dict_in_generate=True,
        )
        said = made.sequences[:, longest:].cpu()
        ends = set(self.model.generation_config.eos_token_id)
        answers = []
        for number, row in enumerate(said.tolist()):
            length = next((i for i, id in enumerate(row) if id in ends), len(row))
            text = self.tokenizer.decode(row[:length], skip_special_tokens=True)
            steps = [step[number] for step in made.logits[:length]] if top_logprobs else []
            tokens = (self._token(id, step, top_logprobs) for id, step in zip(row, steps, strict=False))
            answers.append(Answer(text=text, tokens=tuple(tokens)))
        return answers

    def _token(self, id: int, logits: Tensor, top_logprobs: int) -> Token:
        logprobs = logits.float().log_softmax(-1)
        best = logprobs.topk(min(top_logprobs, len(logprobs)))
        likeliest = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return Token(
            text=self.tokenizer.decode([id]),
            likeliest=tuple((self.tokenizer.decode([one]), logprob) for one, logprob in likeliest),
        )
