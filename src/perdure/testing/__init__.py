"""What tests of workflows need: virtual time, crashes on purpose, mocks. Never imported by the rest."""
