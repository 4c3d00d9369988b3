"""The pages of the site."""

from django.urls import path

from mysite import views

urlpatterns = [
    path("", views.home, name="home"),
    path("guestbook", views.guestbook, name="guestbook"),
    path("upload", views.upload, name="upload"),
    path("download", views.download, name="download"),
    path("slow", views.slow, name="slow"),
]
