"""The methods that FlashPrefill is compared with, one file a method."""
