"""The accuracy job: suites x lengths x methods become scored samples."""
