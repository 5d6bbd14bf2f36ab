"""When a channel is ill: it is there, and takes nothing from us. Then its letters are held, and none is given up."""

from datetime import datetime, timedelta
from typing import Final

from services.notify.channels import Result

# so many distinct recipients refused within that time, and nobody taken between them, are no accident
MANY: Final = 5
WITHIN: Final = timedelta(hours=1)
_FORGOTTEN: Final = timedelta(days=1)


class Illness:
    """What one channel's refusals in a row say of it. `reason` is empty while it is well."""

    def __init__(self) -> None:
        self.reason = ""
        self._in_a_row: dict[str, datetime] = {}
        self._first_refused: dict[str, datetime] = {}

    def judge(self, result: Result, key: str, recipient: str, now: datetime) -> Result:
        """What an attempt's report means for the delivery with this key, beside those of the last hour.

        A refusal that is not about the address is final only after an hour: until then nobody knows whether it is this
        letter or the channel.
        """
        if result is Result.ILL:
            self.reason = "channel_refuses_us"
        elif result is Result.TAKEN:
            self.reason = ""
            self._in_a_row.clear()
            self._first_refused.pop(key, None)
        elif result in (Result.REFUSED, Result.BOUNCED):
            return self._judge_refusal(result, key, recipient, now)
        return result

    def _judge_refusal(self, result: Result, key: str, recipient: str, now: datetime) -> Result:
        self._in_a_row = {who: at for who, at in self._in_a_row.items() if now - at < WITHIN}
        self._in_a_row[recipient] = now
        if len(self._in_a_row) >= MANY:
            self.reason = "channel_refuses_all"
        if self.reason:
            return Result.ILL
        if result is Result.BOUNCED:
            return result
        self._first_refused = {one: at for one, at in self._first_refused.items() if now - at < _FORGOTTEN}
        if now - self._first_refused.setdefault(key, now) < WITHIN:
            return Result.LATER
        del self._first_refused[key]
        return result
