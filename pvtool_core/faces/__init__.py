"""Face detection, face recognition and enrolment."""
