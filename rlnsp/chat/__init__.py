"""Questions to vision-language models behind an OpenAI-compatible server, with an answer cache on disk."""

from rlnsp.chat.cache import AnswerCache
from rlnsp.chat.client import ChatClient, NoProbabilities, NoServer
from rlnsp.chat.frames import FramesConfig, sampled
from rlnsp.chat.question import Answer, Question, Token
from rlnsp.chat.settings import ChatConfig
from rlnsp.chat.verdicts import verdict

__all__ = [
    "Answer",
    "AnswerCache",
    "ChatClient",
    "ChatConfig",
    "FramesConfig",
    "NoProbabilities",
    "NoServer",
    "Question",
    "Token",
    "sampled",
    "verdict",
]
