"""Many ranks as one run: how they start, meet, agree, and end together."""
