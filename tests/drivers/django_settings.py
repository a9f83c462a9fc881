"""Settings for Django's own tests, with a runner that writes down what came of each. DATABASES go by libpq's variables."""
import json
import os
import unittest

from django.test.runner import DiscoverRunner

SERVER = {"ENGINE": "django.db.backends.postgresql", "HOST": os.environ["PGHOST"], "PORT": os.environ["PGPORT"],
          "USER": os.environ["PGUSER"], "PASSWORD": os.environ["PGPASSWORD"]}
DATABASES = {name: dict(SERVER, NAME=f"django_{name}") for name in ("default", "other")}
SECRET_KEY = "of-the-tests"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False
TEST_RUNNER = "django_settings.Runner"


class Result(unittest.TextTestResult):
    """Notes each test's outcome; a subtest's failure is its test's."""

    outcomes = {}

    def note(self, test, result, error=None):
        test = getattr(test, "test_case", test)
        if self.outcomes.get(test.id(), [""])[0] != "failed":
            self.outcomes[test.id()] = [result, self._exc_info_to_string(error, test) if error else ""]

    def addSuccess(self, test):
        super().addSuccess(test)
        self.note(test, "passed")

    def addExpectedFailure(self, test, err):
        super().addExpectedFailure(test, err)
        self.note(test, "passed")

    def addUnexpectedSuccess(self, test):
        super().addUnexpectedSuccess(test)
        self.note(test, "failed")

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.note(test, "skipped")

    def addError(self, test, err):
        super().addError(test, err)
        self.note(test, "failed", err)

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.note(test, "failed", err)

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err:
            self.note(test, "failed", err)


class Runner(DiscoverRunner):
    """Django's own, with that result."""

    def get_resultclass(self):
        return Result

    def run_suite(self, suite, **kwargs):
        result = super().run_suite(suite, **kwargs)
        with open(os.environ["OUTCOMES"], "w") as file:
            json.dump(Result.outcomes, file)
        return result
